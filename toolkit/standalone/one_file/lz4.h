/* Blocks of LZ4. Source: LZ4 Block Format Description, Yann Collet, 2015-2022. */
#ifndef LZ4_H
#define LZ4_H
#include <stddef.h>
#include <stdint.h>

enum { LONGEST_BLOCK = 1 << 20 }; /* bytes, expanded; windows reach over 64 KiB, so that longer blocks gain nothing */

/* Bytes written to `out`, or 0 where `room` is too little for them. `size` is LONGEST_BLOCK at most. */
size_t lz4_compress(const uint8_t *in, size_t size, uint8_t *out, size_t room);

/* Bytes written to `out`; 0 where the block is damaged or holds more than `room`. */
size_t lz4_expand(const uint8_t *in, size_t size, uint8_t *out, size_t room);

/* Of compressed bytes: FNV-1a over words of eight bytes, the last one filled with zeros. */
uint64_t lz4_sum(const uint8_t *in, size_t size);

#endif
