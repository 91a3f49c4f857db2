/* Deflate, decompressed into memory of a size known before. Source: RFC 1951; CRC-32: RFC 1952, section 8. */
#include <string.h>

#include "runner.h"

enum { LONGEST_CODE = 15, LITERALS = 288, DISTANCES = 30 };

typedef struct {
    const uint8_t *bytes;
    size_t size, at;
    uint64_t held; /* bits that were read and not yet used */
    int bits;
    bool ended; /* more was asked for than there is */
} Stream;

typedef struct {
    uint16_t count[LONGEST_CODE + 1], symbol[LITERALS]; /* codes of each length; symbols in the order of their codes */
} Code;

static unsigned take_bits(Stream *in, int wanted) {
    while (in->bits < wanted) {
        if (in->at == in->size) {
            in->ended = true;
            return 0;
        }
        in->held |= (uint64_t)in->bytes[in->at++] << in->bits;
        in->bits += 8;
    }
    unsigned value = (unsigned)(in->held & ((1u << wanted) - 1));
    in->held >>= wanted;
    in->bits -= wanted;
    return value;
}

/* False where more codes are stated than there can be. Fewer are allowed: a code may be of one symbol alone. */
static bool make_code(Code *code, const uint8_t *lengths, int symbols) {
    uint16_t place[LONGEST_CODE + 1] = {0};
    int left = 1;
    memset(code->count, 0, sizeof code->count);
    for (int i = 0; i < symbols; i++)
        code->count[lengths[i]]++;
    code->count[0] = 0;
    for (int length = 1; length <= LONGEST_CODE; length++)
        if ((left = 2 * left - code->count[length]) < 0)
            return false;
    for (int length = 1; length < LONGEST_CODE; length++)
        place[length + 1] = (uint16_t)(place[length] + code->count[length]);
    for (int i = 0; i < symbols; i++)
        if (lengths[i])
            code->symbol[place[lengths[i]]++] = (uint16_t)i;
    return true;
}

/* The next symbol, or -1. */
static int symbol(Stream *in, const Code *code) {
    int value = 0, first = 0, index = 0;
    for (int length = 1; length <= LONGEST_CODE; length++) {
        value |= (int)take_bits(in, 1);
        if (in->ended)
            return -1;
        int count = code->count[length];
        if (value - count < first)
            return code->symbol[index + value - first];
        index += count;
        first = (first + count) << 1;
        value <<= 1;
    }
    return -1;
}

typedef struct {
    uint8_t *bytes;
    size_t size, at;
} Output;

static bool compressed_block(Stream *in, Output *out, const Code *literal, const Code *distance) {
    static const uint16_t LENGTH[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                        31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint8_t LENGTH_BITS[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                            2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
    static const uint16_t BACK[DISTANCES] = {1,    2,    3,    4,    5,    7,    9,    13,    17,    25,
                                             33,   49,   65,   97,   129,  193,  257,  385,   513,   769,
                                             1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    for (;;) {
        int found = symbol(in, literal);
        if (found == 256)
            return true;
        if (found < 0 || found > 285)
            return false;
        if (found < 256) {
            if (out->at == out->size)
                return false;
            out->bytes[out->at++] = (uint8_t)found;
            continue;
        }
        size_t length = LENGTH[found - 257] + take_bits(in, LENGTH_BITS[found - 257]);
        int far = symbol(in, distance);
        if (far < 0 || far >= DISTANCES)
            return false;
        size_t back = BACK[far] + take_bits(in, far < 2 ? 0 : far / 2 - 1);
        if (in->ended || back > out->at || length > out->size - out->at)
            return false;
        for (; length; length--, out->at++)
            out->bytes[out->at] = out->bytes[out->at - back];
    }
}

static bool stored_block(Stream *in, Output *out) {
    in->held >>= in->bits & 7;
    in->bits -= in->bits & 7;
    unsigned size = take_bits(in, 16), check = take_bits(in, 16);
    if (in->ended || size != (check ^ 0xFFFF) || size > out->size - out->at)
        return false;
    for (; size; size--)
        out->bytes[out->at++] = (uint8_t)take_bits(in, 8);
    return !in->ended;
}

static bool fixed_block(Stream *in, Output *out) {
    uint8_t lengths[LITERALS];
    Code literal, distance;
    for (int i = 0; i < LITERALS; i++)
        lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    make_code(&literal, lengths, LITERALS);
    memset(lengths, 5, DISTANCES);
    make_code(&distance, lengths, DISTANCES);
    return compressed_block(in, out, &literal, &distance);
}

static bool dynamic_block(Stream *in, Output *out) {
    static const uint8_t ORDER[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    uint8_t lengths[LITERALS + 32] = {0};
    Code literal, distance;
    int literals = (int)take_bits(in, 5) + 257, distances = (int)take_bits(in, 5) + 1,
        stated = (int)take_bits(in, 4) + 4;
    for (int i = 0; i < stated; i++)
        lengths[ORDER[i]] = (uint8_t)take_bits(in, 3);
    if (literals > 286 || distances > DISTANCES || !make_code(&literal, lengths, 19))
        return false;
    memset(lengths, 0, sizeof lengths);
    for (int i = 0; i < literals + distances;) {
        int found = symbol(in, &literal);
        if (found < 0 || (found == 16 && !i))
            return false;
        uint8_t value = found < 16 ? (uint8_t)found : found == 16 ? lengths[i - 1] : 0;
        int repeats = found < 16    ? 1
                      : found == 16 ? 3 + (int)take_bits(in, 2)
                      : found == 17 ? 3 + (int)take_bits(in, 3)
                                    : 11 + (int)take_bits(in, 7);
        if (repeats > literals + distances - i)
            return false;
        for (; repeats; repeats--)
            lengths[i++] = value;
    }
    if (in->ended || !make_code(&literal, lengths, literals) || !make_code(&distance, lengths + literals, distances))
        return false;
    return compressed_block(in, out, &literal, &distance);
}

bool inflate(Bytes compressed, uint8_t *out, size_t size, size_t *used) {
    Stream in = {.bytes = compressed.bytes, .size = compressed.size};
    Output into = {out, size, 0};
    bool last = false, good = true;
    while (good && !last) {
        last = take_bits(&in, 1);
        unsigned kind = take_bits(&in, 2);
        good = !in.ended && (kind == 0   ? stored_block(&in, &into)
                             : kind == 1 ? fixed_block(&in, &into)
                             : kind == 2 ? dynamic_block(&in, &into)
                                         : false);
    }
    *used = in.at - (size_t)in.bits / 8; /* whole bytes that were read ahead */
    return good && into.at == size;
}

uint32_t crc32(Bytes content) {
    static uint32_t table[256];
    for (uint32_t i = 0; !table[255] && i < 256; i++) {
        uint32_t rest = i;
        for (int bit = 0; bit < 8; bit++)
            rest = rest & 1 ? rest >> 1 ^ 0xEDB88320u : rest >> 1;
        table[i] = rest;
    }
    uint32_t sum = 0xFFFFFFFFu;
    for (size_t i = 0; i < content.size; i++)
        sum = table[(sum ^ content.bytes[i]) & 255] ^ sum >> 8;
    return ~sum;
}
