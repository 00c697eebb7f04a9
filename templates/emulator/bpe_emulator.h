/* SPDX-License-Identifier: Apache-2.0
 *
 * What a measured program may use. Only its main file includes this; the code
 * under measurement knows nothing of it. Files, text and exit go through
 * semihosting, so neither a device driver nor a C library is involved.
 */
#ifndef BPE_EMULATOR_H
#define BPE_EMULATOR_H

#include <stdint.h>

/* The instructions executed between the two are counted, the call of bpe_end()
 * among them but not what it executes, and the deepest stack use below the caller
 * of bpe_begin() is recorded. Regions follow one another; they may not be nested. */
void bpe_begin(void);
void bpe_end(void);

/* A whole file into memory: the number of its bytes, or -1 if there is no such
 * file or it is longer than the capacity. */
int32_t bpe_read(const char *name, void *bytes, uint32_t capacity);

/* Exactly `count` bytes from `offset` of a file: `count`, or -1. */
int32_t bpe_read_at(const char *name, uint32_t offset, void *bytes, uint32_t count);

/* A new file with these bytes, replacing one of that name: `count`, or -1. */
int32_t bpe_write(const char *name, const void *bytes, uint32_t count);

/* The same at the end of a file, which is made if there is none. */
int32_t bpe_append(const char *name, const void *bytes, uint32_t count);

/* Text to the standard output, as it is. */
void bpe_puts(const char *text);

/* Ends the program; returning from main() does the same. */
__attribute__((noreturn)) void bpe_exit(int code);

#endif
