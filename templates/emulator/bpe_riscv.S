/* SPDX-License-Identifier: Apache-2.0
 *
 * RV32 part of the runtime, in machine mode.
 */
    .option arch, +zicsr
    .equ PAINT, 0x5bd1e995

    .macro function name
    .section .text.\name, "ax", @progbits
    .balign 4
    .globl \name
    .type \name, @function
\name:
    .endm

    .section .vectors, "ax", @progbits
    .globl bpe_reset
bpe_reset:
    .option push
    .option norelax
    la gp, __global_pointer$
    .option pop
    la sp, bpe_stack_top
    la tp, bpe_bss_start
    la t0, bpe_exception
    csrw mtvec, t0
    la t0, bpe_vectors_start        /* locked protection entry: from the vectors up to RAM, */
    srli t0, t0, 2                  /* which is above them, nothing may be written */
    csrw pmpaddr0, t0
    la t0, bpe_ram_start
    srli t0, t0, 2
    csrw pmpaddr1, t0
    li t0, 0x8d00                   /* entry 1: lock, top of range, execute, read */
    csrw pmpcfg0, t0
    li t0, 0x6600                   /* mstatus: without access to the FPU, code compiled for one */
    csrs mstatus, t0                /* would fault; ignored where there is none */
    j bpe_start

/* Any trap. */
function bpe_exception
    csrr a0, mcause
    addi a0, a0, 1                  /* cause 0 exists, number 0 means none */
    csrr a1, mepc
    csrr a2, mtval
    la sp, bpe_stack_top            /* it may have run into the program */
    j bpe_fault

/* int32_t bpe_host(uint32_t operation, const void *argument)
 * The three instructions that make the call must lie in one page. */
function bpe_host
    .balign 16
    .option push
    .option norvc
    slli x0, x0, 0x1f
    ebreak
    srai x0, x0, 7
    .option pop
    ret

/* Both markers work without touching the stack, so as to leave no trace on it. */
function bpe_begin
    la t0, bpe_base
    lw t1, 0(t0)
    bnez t1, 2f
    sw sp, 0(t0)
    la t0, bpe_stack_limit
    li t2, PAINT
1:  bgeu t0, sp, bpe_opened
    sw t2, 0(t0)
    addi t0, t0, 4
    j 1b
2:  j bpe_unpaired
    .globl bpe_opened               /* only ever jumped to: a block of its own for the counter */
    .type bpe_opened, @function
bpe_opened:
    ret

function bpe_end
    la t0, bpe_base
    lw t1, 0(t0)
    beqz t1, 4f
    sw zero, 0(t0)
    li t2, PAINT
    la t0, bpe_stack_limit
    lw t3, 0(t0)
    bne t3, t2, 5f
1:  addi t0, t0, 4
    bgeu t0, t1, 2f
    lw t3, 0(t0)
    beq t3, t2, 1b
2:  sub t1, t1, t0
    la t0, bpe_deepest
    lw t3, 0(t0)
    bleu t1, t3, 3f
    sw t1, 0(t0)
3:  ret
4:  j bpe_unpaired
5:  j bpe_overflow
