/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * QEMU plugin: counts the guest instructions executed between two markers.
 *
 *   -plugin bpe_counter.so,begin=ADDRESS,end=ADDRESS,out=FILE[,marks=ADDRESS:ADDRESS...]
 *
 * Each time the code at `begin` has run, counting starts at zero; each time the
 * code at `end` is about to run, a region is complete. The blocks that start at
 * these markers are not counted themselves. Marks divide a region into parts: a
 * part ends where execution reaches a mark, whose instruction is the next part's.
 *
 * A translated block is straight-line code, so its instructions are counted as a
 * whole when it is entered. Only an exception leaves one early, which correct
 * firmware does not raise between the markers. A block with a mark inside is two
 * pieces of code, any other block is one.
 *
 * FILE has lines of numbers, addresses in hexadecimal:
 *
 *   piece ADDRESS INSTRUCTIONS RUNS FELL   code that ran RUNS times in this part,
 *                                          FELL times on into what lies behind it
 *   mark ADDRESS                           the part ends
 *   region INSTRUCTIONS                    the last part and the region end
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
struct qemu_plugin_insn;

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);

EXPORT int qemu_plugin_version = BPE_PLUGIN_API;

enum { NO_REGISTERS = 0 };

/* Lives as long as QEMU, which may translate the same code again. */
struct piece {
    uint64_t start, end, instructions, runs, fell;
    struct piece *next;
    bool marked;
};

static uint64_t begin_address, end_address, executed;
static uint64_t *marks;
static size_t mark_count;
static struct piece *ran, *before;
static bool inside;
static FILE *out;

static void finish_part(void)
{
    for (struct piece *p = ran; p != NULL; p = p->next) {
        fprintf(out, "piece %" PRIx64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", p->start, p->instructions, p->runs, p->fell);
        p->runs = p->fell = 0;
    }
    ran = NULL;
}

static void on_begin(unsigned cpu, void *unused)
{
    (void)cpu, (void)unused;
    for (; ran != NULL; ran = ran->next)
        ran->runs = ran->fell = 0;
    before = NULL;
    executed = 0;
    inside = true;
}

static void on_end(unsigned cpu, void *unused)
{
    (void)cpu, (void)unused;
    if (!inside)
        return;
    inside = false;
    finish_part();
    fprintf(out, "region %" PRIu64 "\n", executed);
    fflush(out); /* a crash of the guest may end QEMU without notice */
}

static void on_piece(unsigned cpu, void *code)
{
    struct piece *piece = code;
    (void)cpu;
    if (!inside)
        return;
    if (before != NULL && before->end == piece->start)
        before->fell++;
    if (piece->marked) {
        finish_part();
        fprintf(out, "mark %" PRIx64 "\n", piece->start);
    }
    if (piece->runs++ == 0) {
        piece->next = ran;
        ran = piece;
    }
    before = piece;
    executed += piece->instructions;
}

static bool is_mark(uint64_t address)
{
    for (size_t i = 0; i < mark_count; i++) {
        if (marks[i] == address)
            return true;
    }
    return false;
}

/* The piece of the block from instruction `first` to the next mark or the end. */
static struct piece *piece_from(const struct qemu_plugin_tb *block, size_t first)
{
    struct piece *piece = calloc(1, sizeof *piece);
    if (piece == NULL)
        abort();
    piece->start = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(block, first));
    piece->marked = is_mark(piece->start);
    for (size_t i = first; i < qemu_plugin_tb_n_insns(block); i++) {
        const struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        if (i > first && is_mark(qemu_plugin_insn_vaddr(insn)))
            break;
        piece->end = qemu_plugin_insn_vaddr(insn) + qemu_plugin_insn_size(insn);
        piece->instructions++;
    }
    return piece;
}

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    const uint64_t address = qemu_plugin_tb_vaddr(block);
    struct piece *piece;
    (void)id;
    if (address == begin_address) {
        qemu_plugin_register_vcpu_tb_exec_cb(block, on_begin, NO_REGISTERS, NULL);
        return;
    }
    if (address == end_address) {
        qemu_plugin_register_vcpu_tb_exec_cb(block, on_end, NO_REGISTERS, NULL);
        return;
    }
    piece = piece_from(block, 0);
    qemu_plugin_register_vcpu_tb_exec_cb(block, on_piece, NO_REGISTERS, piece);
    for (size_t i = piece->instructions; i < qemu_plugin_tb_n_insns(block); i += piece->instructions) {
        piece = piece_from(block, i);
        qemu_plugin_register_vcpu_insn_exec_cb(qemu_plugin_tb_get_insn(block, i), on_piece, NO_REGISTERS, piece);
    }
}

static void read_marks(const char *text)
{
    char *rest;
    marks = calloc(strlen(text) + 1, sizeof *marks);
    if (marks == NULL)
        abort();
    for (; *text != '\0'; text = *rest == ':' ? rest + 1 : rest)
        marks[mark_count++] = strtoull(text, &rest, 0);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "begin=", 6) == 0)
            begin_address = strtoull(argv[i] + 6, NULL, 0);
        else if (strncmp(argv[i], "end=", 4) == 0)
            end_address = strtoull(argv[i] + 4, NULL, 0);
        else if (strncmp(argv[i], "marks=", 6) == 0)
            read_marks(argv[i] + 6);
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
