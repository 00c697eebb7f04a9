/* SPDX-License-Identifier: Apache-2.0
 *
 * Start, files, text and end of a measured program. What cannot be written in
 * C is in bpe_arm.S and bpe_riscv.S.
 */
#include "bpe_emulator.h"

enum { SYS_OPEN = 1, SYS_CLOSE = 2, SYS_WRITE = 5, SYS_READ = 6, SYS_SEEK = 10, SYS_FLEN = 12, SYS_EXIT_EXTENDED = 32 };
enum { MODE_READ = 1, MODE_UPDATE = 3, MODE_TEXT = 4, MODE_WRITE = 5 };
enum { REASON_APPLICATION_EXIT = 0x20026 };
enum { TROUBLE_MARKERS = 0x100, TROUBLE_STACK = 0x101 }; /* beside the processor's own numbers */

int32_t bpe_host(uint32_t operation, const void *argument);
int main(void);
extern uint32_t bpe_data_from[], bpe_data_start[], bpe_data_end[], bpe_bss_start[], bpe_bss_end[];

uint32_t bpe_base;    /* stack pointer at the begin of the open region, 0 if none is open */
uint32_t bpe_deepest; /* bytes */

/* ---- files and text */

static uint32_t length_of(const char *text)
{
    uint32_t n = 0;
    while (text[n] != 0)
        n++;
    return n;
}

static int32_t open_file(const char *name, uint32_t mode)
{
    const uint32_t block[3] = { (uint32_t)name, mode, length_of(name) };
    return bpe_host(SYS_OPEN, block);
}

/* Moves all bytes or fails; the handle is closed. */
static int32_t transfer(uint32_t operation, int32_t handle, const void *bytes, uint32_t count)
{
    const uint32_t block[3] = { (uint32_t)handle, (uint32_t)bytes, count };
    const int32_t left = count == 0 ? 0 : bpe_host(operation, block); /* bytes not moved */
    const int32_t closed = bpe_host(SYS_CLOSE, &handle);
    return left == 0 && closed == 0 ? (int32_t)count : -1;
}

int32_t bpe_read(const char *name, void *bytes, uint32_t capacity)
{
    const int32_t handle = open_file(name, MODE_READ);
    if (handle < 0)
        return -1;
    const int32_t length = bpe_host(SYS_FLEN, &handle);
    if (length < 0 || (uint32_t)length > capacity) {
        bpe_host(SYS_CLOSE, &handle);
        return -1;
    }
    return transfer(SYS_READ, handle, bytes, (uint32_t)length);
}

/* Goes to `offset`; on failure the handle is closed. */
static int32_t seek(int32_t handle, uint32_t offset)
{
    const uint32_t block[2] = { (uint32_t)handle, offset };
    const int32_t moved = bpe_host(SYS_SEEK, block);
    if (moved != 0)
        bpe_host(SYS_CLOSE, &handle);
    return moved;
}

int32_t bpe_read_at(const char *name, uint32_t offset, void *bytes, uint32_t count)
{
    const int32_t handle = open_file(name, MODE_READ);
    if (handle < 0 || seek(handle, offset) != 0)
        return -1;
    return transfer(SYS_READ, handle, bytes, count);
}

static int32_t put(const char *name, uint32_t mode, const void *bytes, uint32_t count)
{
    const int32_t handle = open_file(name, mode);
    return handle < 0 ? -1 : transfer(SYS_WRITE, handle, bytes, count);
}

int32_t bpe_write(const char *name, const void *bytes, uint32_t count)
{
    return put(name, MODE_WRITE, bytes, count);
}

/* By seeking: QEMU 7.2 opens for appending but then writes from the start. */
int32_t bpe_append(const char *name, const void *bytes, uint32_t count)
{
    const int32_t handle = open_file(name, MODE_UPDATE);
    if (handle < 0)
        return bpe_write(name, bytes, count);
    const int32_t length = bpe_host(SYS_FLEN, &handle);
    if (length < 0 || seek(handle, (uint32_t)length) != 0)
        return -1;
    return transfer(SYS_WRITE, handle, bytes, count);
}

void bpe_puts(const char *text)
{
    put(":tt", MODE_TEXT, text, length_of(text));
}

/* ---- start and end */

/* The report lies beside the folder of the program's files, out of their way. */
__attribute__((noreturn)) static void finish(int code, uint32_t number, uint32_t pc, uint32_t status)
{
    const uint32_t report[5] = { (uint32_t)code, number, pc, status, bpe_deepest };
    const uint32_t written = bpe_write("../report", report, sizeof report) == (int32_t)sizeof report;
    const uint32_t block[2] = { REASON_APPLICATION_EXIT, written ? 0 : 1 };
    for (;;)
        bpe_host(SYS_EXIT_EXTENDED, block);
}

__attribute__((noreturn)) void bpe_fault(uint32_t number, uint32_t pc, uint32_t status)
{
    finish(128, number, pc, status);
}

__attribute__((noreturn)) void bpe_unpaired(void)
{
    bpe_fault(TROUBLE_MARKERS, 0, 0);
}

__attribute__((noreturn)) void bpe_overflow(void)
{
    bpe_fault(TROUBLE_STACK, 0, 0);
}

void bpe_exit(int code)
{
    if (bpe_base != 0)
        bpe_unpaired();
    finish(code, 0, 0, 0);
}

/* Called by the reset code with a stack and nothing else. */
__attribute__((noreturn)) void bpe_start(void)
{
    const uint32_t *from = bpe_data_from;
    for (uint32_t *to = bpe_data_start; to < bpe_data_end; to++)
        *to = *from++;
    for (uint32_t *to = bpe_bss_start; to < bpe_bss_end; to++)
        *to = 0;
    bpe_exit(main());
}

/* A C library's allocator asks here for memory and gets none. */
void *_sbrk(int32_t increment);
void *_sbrk(int32_t increment)
{
    (void)increment;
    return (void *)UINT32_MAX;
}
