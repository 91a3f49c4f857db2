/* A .wav recording of one channel. Source: Microsoft and IBM, Multimedia Programming Interface 1.0, chapter 3. */
#include <string.h>

#include "runner.h"

static const char SAVE_AGAIN[] = "save it as PCM .wav of 8 to 32 bits";

enum { PCM = 1, EXTENSIBLE = 0xFFFE };

static uint32_t little(const uint8_t *at, int bytes) {
    uint32_t value = 0;
    while (bytes--)
        value = value << 8 | at[bytes];
    return value;
}

static _Noreturn void refuse(const char *name, const char *why) {
    fail(EXIT_INVALID, "cannot read the recording %s: %s", "%s", name, why, SAVE_AGAIN);
}

/* Bytes of a value; those that are not PCM of one channel are refused. */
static size_t format(Bytes chunk, const char *name) {
    if (chunk.size < 16)
        refuse(name, "it is cut off");
    uint32_t kind = little(chunk.bytes, 2), channels = little(chunk.bytes + 2, 2), bits = little(chunk.bytes + 14, 2);
    if (kind == EXTENSIBLE && chunk.size >= 26)
        kind = little(chunk.bytes + 24, 2);
    if (kind != PCM)
        refuse(name, text("unknown format: %u", kind));
    if (channels != 1)
        fail(EXIT_INVALID, "%s has %u channels", "mix it down to mono", name, channels);
    if (bits < 1 || bits > 32)
        refuse(name, text("it has %u bits", bits));
    return (bits + 7) / 8;
}

/* Eight bits are unsigned, the others signed. */
static float value(const uint8_t *at, size_t width) {
    if (width == 1)
        return ((float)*at - 128) / 128;
    uint32_t wide = little(at, (int)width) << (32 - 8 * width);
    int64_t whole = wide < 0x80000000u ? (int64_t)wide : (int64_t)wide - 0x100000000;
    return (float)whole / 2147483648.0f;
}

Tensor parse_sound(Bytes content, const char *name) {
    size_t width = 0, at = 12;
    Bytes data = {NULL, 0};
    if (content.size < 12 || memcmp(content.bytes, "RIFF", 4) || memcmp(content.bytes + 8, "WAVE", 4))
        refuse(name, "it is no RIFF file of WAVE data");
    while (!data.bytes) {
        if (content.size - at < 8)
            refuse(name, width ? "it holds no data" : "it is cut off");
        const uint8_t *start = content.bytes + at;
        size_t size = little(start + 4, 4), left = content.size - at - 8;
        Bytes chunk = {start + 8, size < left ? size : left};
        if (!memcmp(start, "fmt ", 4))
            width = format(chunk, name);
        else if (!memcmp(start, "data", 4))
            data = chunk;
        if (size >= left && !data.bytes)
            refuse(name, "it holds no data");
        at += 8 + size + (size & 1);
        if (at > content.size)
            at = content.size;
    }
    if (!width)
        refuse(name, "its data comes before its format");
    int64_t count = (int64_t)(data.size / width);
    Tensor made = tensor(name, FLOAT32, &count, 1);
    for (size_t i = 0; i < made.count; i++)
        ((float *)made.values)[i] = value(data.bytes + i * width, width);
    return made;
}
