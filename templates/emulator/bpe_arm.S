/* SPDX-License-Identifier: Apache-2.0
 *
 * Cortex-M part of the runtime, in instructions that Armv6-M has already.
 */
    .syntax unified
    .thumb
    .equ PAINT, 0x5bd1e995

    .macro function name
    .section .text.\name, "ax", %progbits
    .balign 4
    .globl \name
    .type \name, %function
    .thumb_func
\name:
    .endm

    .section .vectors, "ax", %progbits
    .word bpe_stack_top, bpe_reset
    .rept 14
    .word bpe_exception
    .endr

function bpe_reset
    ldr r0, =bpe_stack_top
    mov sp, r0
#if __ARM_ARCH == 6
    ldr r0, =0xe000ed14             /* CCR.UNALIGN_TRP: a newer core that runs Armv6-M code */
    ldr r1, [r0]                    /* shall refuse unaligned accesses too */
    movs r2, #8
    orrs r1, r2
    str r1, [r0]
#endif
    ldr r0, =0xe000ed88             /* CPACR: without access to the FPU, code compiled for one */
    ldr r1, [r0]                    /* would fault; ignored where there is none */
    movs r2, #15
    lsls r2, r2, #20
    orrs r1, r2
    str r1, [r0]
    dsb
    isb
    ldr r0, =bpe_start
    bx r0
    .ltorg

/* Any exception. */
function bpe_exception
    mrs r0, ipsr
    ldr r1, [sp, #24]               /* stacked pc */
    ldr r2, =0xe000ed28             /* CFSR */
    ldr r2, [r2]
    ldr r3, =bpe_fault
    bx r3
    .ltorg

/* int32_t bpe_host(uint32_t operation, const void *argument) */
function bpe_host
    bkpt #0xab
    bx lr

/* Both markers work without touching the stack, so as to leave no trace on it. */
function bpe_begin
    ldr r0, =bpe_base
    ldr r1, [r0]
    cmp r1, #0
    bne 2f
    mov r1, sp
    str r1, [r0]
    ldr r0, =bpe_stack_limit
    ldr r2, =PAINT
1:  cmp r0, r1
    bhs bpe_opened
    str r2, [r0]
    adds r0, r0, #4
    b 1b
2:  ldr r0, =bpe_unpaired
    bx r0
    .ltorg
    .globl bpe_opened               /* only ever jumped to: a block of its own for the counter */
    .type bpe_opened, %function
    .thumb_func
bpe_opened:
    bx lr

function bpe_end
    ldr r0, =bpe_base
    ldr r1, [r0]
    cmp r1, #0
    beq 4f
    movs r2, #0
    str r2, [r0]
    ldr r2, =PAINT
    ldr r0, =bpe_stack_limit
    ldr r3, [r0]
    cmp r3, r2
    bne 5f
1:  adds r0, r0, #4
    cmp r0, r1
    bhs 2f
    ldr r3, [r0]
    cmp r3, r2
    beq 1b
2:  subs r1, r1, r0
    ldr r0, =bpe_deepest
    ldr r3, [r0]
    cmp r1, r3
    bls 3f
    str r1, [r0]
3:  bx lr
4:  ldr r0, =bpe_unpaired
    bx r0
5:  ldr r0, =bpe_overflow
    bx r0
    .ltorg
