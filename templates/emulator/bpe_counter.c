/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU plugin: counts the guest instructions executed between two markers.
 *
 *   -plugin bpe_counter.so,begin=ADDRESS,end=ADDRESS,out=FILE
 *
 * Each time the code at `begin` has run, counting starts at zero; each time the
 * code at `end` is about to run, the count is written to FILE as one decimal
 * line. The blocks that start at the markers are not counted themselves.
 *
 * A translated block is straight-line code, so its instructions are counted as a
 * whole when it is entered. Only an exception leaves one early, which correct
 * firmware does not raise between the markers.
 *
 * Distributions ship no header for the plugin interface. What is declared here
 * has the same shape in all its versions; QEMU asks which one is meant.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);

EXPORT int qemu_plugin_version = BPE_PLUGIN_API;

enum { NO_REGISTERS = 0 };

static uint64_t begin_address, end_address, executed;
static bool inside;
static FILE *out;

static void on_begin(unsigned cpu, void *unused)
{
    (void)cpu, (void)unused;
    executed = 0;
    inside = true;
}

static void on_end(unsigned cpu, void *unused)
{
    (void)cpu, (void)unused;
    if (!inside)
        return;
    inside = false;
    fprintf(out, "%" PRIu64 "\n", executed);
    fflush(out); /* a crash of the guest may end QEMU without notice */
}

static void on_block(unsigned cpu, void *instructions)
{
    (void)cpu;
    executed += (uintptr_t)instructions;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    const uint64_t address = qemu_plugin_tb_vaddr(block);
    void *instructions = (void *)(uintptr_t)qemu_plugin_tb_n_insns(block);
    (void)id;
    if (address == begin_address)
        qemu_plugin_register_vcpu_tb_exec_cb(block, on_begin, NO_REGISTERS, NULL);
    else if (address == end_address)
        qemu_plugin_register_vcpu_tb_exec_cb(block, on_end, NO_REGISTERS, NULL);
    else
        qemu_plugin_register_vcpu_tb_exec_cb(block, on_block, NO_REGISTERS, instructions);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "begin=", 6) == 0)
            begin_address = strtoull(argv[i] + 6, NULL, 0);
        else if (strncmp(argv[i], "end=", 4) == 0)
            end_address = strtoull(argv[i] + 4, NULL, 0);
        else if (strncmp(argv[i], "out=", 4) == 0)
            out = fopen(argv[i] + 4, "w");
    }
    if (out == NULL) {
        fprintf(stderr, "bpe_counter: cannot write the counts\n");
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
