/* Compress a block: at each place the longest match that chains of equal four bytes lead to, a byte later if longer. */
#include <string.h>

#include "lz4.h"

enum {
    SHORTEST = 4, /* bytes of a match */
    FARTHEST = 65535,
    LAST_LITERALS = 5, /* a block ends with so many */
    LAST_MATCH = 12,   /* and no match begins in its last so many */
    STEPS = 64,        /* of a chain */
    HASH_BITS = 16
};

typedef struct {
    const uint8_t *in;
    size_t size;
    int32_t head[1 << HASH_BITS], before[LONGEST_BLOCK]; /* the last place of a hash, and the one before each place */
    size_t known;                                        /* places that are in the chains */
} Finder;

typedef struct {
    size_t length, distance;
} Match;

typedef struct {
    uint8_t *at, *end;
} Out;

static uint32_t four(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint32_t hash(const uint8_t *at) { return four(at) * 2654435761u >> (32 - HASH_BITS); }

static void learn(Finder *finder, size_t until) {
    for (; finder->known < until; finder->known++) {
        int32_t *head = &finder->head[hash(finder->in + finder->known)];
        finder->before[finder->known] = *head;
        *head = (int32_t)finder->known;
    }
}

static size_t alike(const uint8_t *a, const uint8_t *b, const uint8_t *end) {
    const uint8_t *start = a;
    while (a < end && *a == *b)
        a++, b++;
    return (size_t)(a - start);
}

static Match longest(Finder *finder, size_t place) {
    Match best = {0, 0};
    const uint8_t *at = finder->in + place, *end = finder->in + finder->size - LAST_LITERALS;
    learn(finder, place);
    int32_t candidate = finder->head[hash(at)];
    for (int step = 0; step < STEPS && candidate >= 0 && place - (size_t)candidate <= FARTHEST; step++) {
        const uint8_t *old = finder->in + candidate;
        if (old[best.length] == at[best.length] && four(old) == four(at)) {
            size_t length = alike(at, old, end);
            if (length > best.length)
                best = (Match){length, place - (size_t)candidate};
            if (at + length == end)
                break;
        }
        candidate = finder->before[candidate];
    }
    return best;
}

static int put_length(Out *out, size_t rest) {
    for (; rest >= 255; rest -= 255) {
        if (out->at == out->end)
            return 0;
        *out->at++ = 255;
    }
    if (out->at == out->end)
        return 0;
    *out->at++ = (uint8_t)rest;
    return 1;
}

/* Literals, then a match; the last sequence has none, and a length of zero. */
static int put(Out *out, const uint8_t *literals, size_t count, Match match) {
    size_t more = match.length ? match.length - SHORTEST : 0;
    if (out->at == out->end)
        return 0;
    *out->at++ = (uint8_t)((count < 15 ? count : 15) << 4 | (more < 15 ? more : 15));
    if ((count >= 15 && !put_length(out, count - 15)) || (size_t)(out->end - out->at) < count + 2)
        return 0;
    memcpy(out->at, literals, count);
    out->at += count;
    if (!match.length)
        return 1;
    *out->at++ = (uint8_t)match.distance;
    *out->at++ = (uint8_t)(match.distance >> 8);
    return more < 15 || put_length(out, more - 15);
}

size_t lz4_compress(const uint8_t *in, size_t size, uint8_t *out, size_t room) {
    static Finder finder;
    Out made = {out, out + room};
    finder.in = in;
    finder.size = size;
    finder.known = 0;
    memset(finder.head, -1, sizeof finder.head);
    size_t written = 0, place = 0;
    while (size > LAST_MATCH && place < size - LAST_MATCH) {
        Match match = longest(&finder, place);
        if (match.length < SHORTEST) {
            place++;
            continue;
        }
        while (place + 1 < size - LAST_MATCH) {
            Match next = longest(&finder, place + 1);
            if (next.length <= match.length)
                break;
            match = next;
            place++;
        }
        if (!put(&made, in + written, place - written, match))
            return 0;
        place += match.length;
        written = place;
    }
    if (!put(&made, in + written, size - written, (Match){0, 0}))
        return 0;
    return (size_t)(made.at - out);
}
