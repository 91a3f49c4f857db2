/* Expand a block, whatever its bytes are: nothing is read or written outside of the two buffers. */
#include <string.h>

#include "lz4.h"

typedef struct {
    const uint8_t *at, *end;
} In;

/* A length whose four bits are in a token: where they are all set, bytes follow that add to it. SIZE_MAX: they end. */
static size_t length_of(In *in, unsigned bits) {
    size_t length = bits;
    if (bits < 15)
        return length;
    for (;;) {
        if (in->at == in->end)
            return SIZE_MAX;
        uint8_t more = *in->at++;
        length += more;
        if (more < 255)
            return length;
    }
}

size_t lz4_expand(const uint8_t *in_bytes, size_t size, uint8_t *out, size_t room) {
    In in = {in_bytes, in_bytes + size};
    uint8_t *at = out, *end = out + room;
    while (in.at < in.end) {
        unsigned token = *in.at++;
        size_t literals = length_of(&in, token >> 4);
        if (literals > (size_t)(in.end - in.at) || literals > (size_t)(end - at))
            return 0;
        if (literals <= 16 && in.end - in.at >= 16 && end - at >= 16)
            memcpy(at, in.at, 16); /* of a size that the compiler knows: what is too much is written over */
        else
            memcpy(at, in.at, literals);
        at += literals;
        in.at += literals;
        if (in.at == in.end)
            return (size_t)(at - out);
        if (in.end - in.at < 2)
            return 0;
        size_t distance = in.at[0] | (size_t)in.at[1] << 8;
        in.at += 2;
        size_t length = length_of(&in, token & 15);
        if (length > room || !distance || distance > (size_t)(at - out) || length + 4 > (size_t)(end - at))
            return 0;
        length += 4;
        const uint8_t *from = at - distance;
        if (distance >= 16 && (size_t)(end - at) >= length + 16) {
            for (size_t done = 0; done < length; done += 16)
                memcpy(at + done, from + done, 16);
            at += length;
        } else {
            while (length--) /* a match may reach into what it makes */
                *at++ = *from++;
        }
    }
    return 0;
}

uint64_t lz4_sum(const uint8_t *in, size_t size) {
    uint64_t sum = 14695981039346656037u, word;
    for (; size >= sizeof word; in += sizeof word, size -= sizeof word) {
        memcpy(&word, in, sizeof word);
        sum = (sum ^ word) * 1099511628211u;
    }
    word = 0;
    memcpy(&word, in, size);
    return (sum ^ word) * 1099511628211u;
}
