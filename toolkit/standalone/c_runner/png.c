/* PNG to 8 bits, gray or RGB; transparency is dropped. Source: W3C, Portable Network Graphics, second edition. */
#include <stdlib.h>
#include <string.h>

#include "runner.h"

enum { MOST_PIXELS = 64000000, GRAY = 0, RGB = 2, PALETTE = 3, GRAY_ALPHA = 4, RGB_ALPHA = 6 };

typedef struct {
    const char *name;
    size_t width, height, samples; /* of a pixel, as stored */
    int bits, color;
    const uint8_t *palette;
    size_t colors;
    uint8_t *packed; /* what the IDAT chunks hold */
    size_t packed_size;
} Png;

static _Noreturn void refuse(const char *name, const char *why, const char *hint) {
    fail(EXIT_INVALID, "cannot read the image %s: %s", "%s", name, why, hint);
}

static _Noreturn void damaged(const char *name, const char *why) {
    refuse(name, why, "save it again as PNG, or give .npy");
}

static uint32_t big(const uint8_t *at) {
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void read_header(Png *png, Bytes chunk) {
    static const uint8_t SAMPLES[7] = {1, 0, 3, 1, 2, 0, 4},
                         DEPTHS[7] = {31, 0, 24, 15, 24, 0, 24}; /* 1 2 4 8 16 as bits */
    if (chunk.size != 13 || png->bits)
        damaged(png->name, "its header is damaged");
    png->width = big(chunk.bytes);
    png->height = big(chunk.bytes + 4);
    png->bits = chunk.bytes[8];
    png->color = chunk.bytes[9];
    int log2 = png->bits == 1    ? 0
               : png->bits == 2  ? 1
               : png->bits == 4  ? 2
               : png->bits == 8  ? 3
               : png->bits == 16 ? 4
                                 : 7;
    if (png->color > 6 || !(DEPTHS[png->color] >> log2 & 1) || chunk.bytes[10] || chunk.bytes[11] ||
        chunk.bytes[12] > 1)
        damaged(png->name, "its header is damaged");
    if (!png->width || !png->height)
        damaged(png->name, "it has no pixels");
    if (times(png->width, png->height) > MOST_PIXELS)
        fail(EXIT_INVALID, "%s has %zux%zu pixels, more than %d million", "make it smaller, or remove it", png->name,
             png->width, png->height, MOST_PIXELS / 1000000);
    if (chunk.bytes[12])
        refuse(png->name, "it is interlaced", "save it without interlacing");
    png->samples = SAMPLES[png->color];
}

/* What cameras and screen shots say of how they were held is obeyed elsewhere, and not here. */
static void check_upright(const Png *png, Bytes exif) {
    bool less = exif.size > 8 && exif.bytes[0] == 'I';
    for (size_t i = 8; i + 12 <= exif.size; i++) {
        const uint8_t *tag = exif.bytes + i;
        bool turned = less ? tag[0] == 0x12 && tag[1] == 1 && tag[2] == 3 && !tag[3] && tag[4] == 1 && tag[8] > 1
                           : tag[0] == 1 && tag[1] == 0x12 && !tag[2] && tag[3] == 3 && tag[7] == 1 && tag[9] > 1;
        if (turned)
            refuse(png->name, "its metadata say that it is to be turned", "turn it, and save it without metadata");
    }
}

static void read_chunks(Png *png, Bytes content) {
    size_t at = 8;
    bool ended = false;
    png->packed = take(content.size);
    while (!ended) {
        if (content.size - at < 12 || big(content.bytes + at) > content.size - at - 12)
            damaged(png->name, "it is cut off");
        Bytes chunk = {content.bytes + at + 8, big(content.bytes + at)};
        const char *kind = (const char *)content.bytes + at + 4;
        if (crc32((Bytes){content.bytes + at + 4, chunk.size + 4}) != big(chunk.bytes + chunk.size))
            damaged(png->name, "the checksum of a part differs");
        if (!png->bits && memcmp(kind, "IHDR", 4))
            damaged(png->name, "its header is damaged");
        if (!memcmp(kind, "IHDR", 4)) {
            read_header(png, chunk);
        } else if (!memcmp(kind, "PLTE", 4)) {
            png->palette = chunk.bytes;
            png->colors = chunk.size / 3;
        } else if (!memcmp(kind, "IDAT", 4)) {
            if (chunk.size)
                memcpy(png->packed + png->packed_size, chunk.bytes, chunk.size);
            png->packed_size += chunk.size;
        } else if (!memcmp(kind, "eXIf", 4)) {
            check_upright(png, chunk);
        } else if (!memcmp(kind, "acTL", 4)) {
            refuse(png->name, "it is animated", "save one picture of it");
        } else if (!memcmp(kind, "IEND", 4)) {
            ended = true;
        } else if (!(kind[0] & 32)) {
            damaged(png->name, "it holds a part that is not known");
        }
        at += 12 + chunk.size;
    }
}

/* ---- lines: each begins with the way in which it was filtered */

static int nearest(int left, int up, int corner) {
    int to_left = abs(up - corner), to_up = abs(left - corner), to_corner = abs(left + up - 2 * corner);
    return to_left <= to_up && to_left <= to_corner ? left : to_up <= to_corner ? up : corner;
}

static void unfilter(const Png *png, uint8_t *line, const uint8_t *before, size_t bytes, size_t step) {
    int filter = line[-1];
    if (filter > 4)
        damaged(png->name, "a line of it is damaged");
    for (size_t i = 0; i < bytes; i++) {
        int left = i < step ? 0 : line[i - step], up = before ? before[i] : 0,
            corner = before && i >= step ? before[i - step] : 0;
        int guess = filter == 1   ? left
                    : filter == 2 ? up
                    : filter == 3 ? (left + up) / 2
                    : filter == 4 ? nearest(left, up, corner)
                                  : 0;
        line[i] = (uint8_t)(line[i] + guess);
    }
}

static uint32_t adler32(const uint8_t *bytes, size_t size) {
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < size; i++) {
        a = (a + bytes[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

/* Lines of `bytes` each, one byte apart. */
static uint8_t *read_lines(const Png *png, size_t bytes) {
    size_t size = times(bytes + 1, png->height), used, step = (png->samples * (size_t)png->bits + 7) / 8;
    const uint8_t *zlib = png->packed; /* RFC 1950 */
    if (png->packed_size < 6 || (zlib[0] & 15) != 8 || (zlib[0] * 256 + zlib[1]) % 31 || zlib[1] & 32)
        damaged(png->name, "its pixels are damaged");
    if (size / 1100 > png->packed_size)
        damaged(png->name, "its pixels are cut off");
    uint8_t *lines = take(size);
    Bytes packed = {zlib + 2, png->packed_size - 2};
    if (!inflate(packed, lines, size, &used) || packed.size - used < 4)
        damaged(png->name, "its pixels are damaged");
    if (adler32(lines, size) != big(packed.bytes + used))
        damaged(png->name, "the checksum of its pixels differs");
    for (size_t y = 0; y < png->height; y++)
        unfilter(png, lines + y * (bytes + 1) + 1, y ? lines + (y - 1) * (bytes + 1) + 1 : NULL, bytes, step);
    return lines;
}

/* ---- pixels */

static unsigned sample(const Png *png, const uint8_t *line, size_t index) {
    if (png->bits == 8)
        return line[index];
    if (png->bits == 16)
        return (unsigned)line[2 * index] << 8 | line[2 * index + 1];
    size_t bit = index * (size_t)png->bits;
    return (unsigned)line[bit / 8] >> (8 - png->bits - (int)(bit % 8)) & ((1u << png->bits) - 1);
}

/* In 8 bits: of 16-bit gray the nearest value, of other 16-bit images the upper byte, as Pillow has them. */
static uint8_t eight_bits(const Png *png, unsigned value) {
    if (png->bits == 16)
        return (uint8_t)(png->color == GRAY ? (value + 128) / 257 : value >> 8);
    return (uint8_t)(value * 255 / ((1u << png->bits) - 1));
}

static void read_pixel(const Png *png, const uint8_t *line, size_t x, uint8_t rgb[3]) {
    if (png->color == PALETTE) {
        unsigned color = sample(png, line, x);
        if (color >= png->colors)
            damaged(png->name, "it uses a color that its palette lacks");
        memcpy(rgb, png->palette + 3 * color, 3);
        return;
    }
    for (size_t c = 0; c < 3; c++)
        rgb[c] = eight_bits(png, sample(png, line, x * png->samples + (png->samples < 3 ? 0 : c)));
}

/* ITU-R BT.601 luma, with Pillow's weights of 2^-16 (src/libImaging/Convert.c). */
static uint8_t luma(const uint8_t rgb[3]) {
    return (uint8_t)((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
}

Image parse_png(Bytes content, const char *name, bool gray) {
    static const uint8_t SIGNATURE[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    Png png = {.name = name};
    if (content.size < 8 || memcmp(content.bytes, SIGNATURE, 8))
        damaged(name, "it is no PNG");
    read_chunks(&png, content);
    size_t bytes = (times(png.width, png.samples * (size_t)png.bits) + 7) / 8;
    uint8_t *lines = read_lines(&png, bytes);
    Image image = {png.width, png.height, gray ? 1 : 3, NULL};
    image.pixels = take(times(times(png.width, png.height), image.channels));
    for (size_t y = 0; y < png.height; y++)
        for (size_t x = 0; x < png.width; x++) {
            uint8_t rgb[3], *pixel = image.pixels + (y * png.width + x) * image.channels;
            read_pixel(&png, lines + y * (bytes + 1) + 1, x, rgb);
            if (!gray)
                memcpy(pixel, rgb, 3);
            else
                *pixel = png.color == GRAY || png.color == GRAY_ALPHA ? rgb[0] : luma(rgb);
        }
    return image;
}
