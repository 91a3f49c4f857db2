/* Members of a .npz. Source: PKWARE, APPNOTE.TXT 6.3.9, sections 4.3.7, 4.3.12 and 4.3.16. */
#include <string.h>

#include "runner.h"

enum { LOCAL_BYTES = 30, CENTRAL_BYTES = 46, END_BYTES = 22, LONGEST_COMMENT = 65535, STORED = 0, DEFLATED = 8 };

static uint32_t little(const uint8_t *at, int bytes) {
    uint32_t value = 0;
    while (bytes--)
        value = value << 8 | at[bytes];
    return value;
}

static _Noreturn void damaged(const char *name, const char *why) {
    fail(EXIT_INVALID, "cannot read %s: %s", "save it again with numpy.savez, or copy it again", name, why);
}

static const uint8_t *end_record(Bytes content) {
    for (size_t back = END_BYTES; back <= content.size && back <= END_BYTES + LONGEST_COMMENT; back++)
        if (!memcmp(content.bytes + content.size - back, "PK\5\6", 4))
            return content.bytes + content.size - back;
    return NULL;
}

static Bytes packed(Bytes content, const uint8_t *record, const char *name) {
    size_t size = little(record + 20, 4), at = little(record + 42, 4);
    if (at > content.size || content.size - at < LOCAL_BYTES || memcmp(content.bytes + at, "PK\3\4", 4))
        damaged(name, "a member is not where the archive says");
    const uint8_t *local = content.bytes + at;
    size_t start = at + LOCAL_BYTES + little(local + 26, 2) + little(local + 28, 2);
    if (start > content.size || content.size - start < size)
        damaged(name, "a member is cut off");
    return (Bytes){content.bytes + start, size};
}

static Bytes unpacked(Bytes content, const uint8_t *record, const char *name) {
    Bytes stored = packed(content, record, name);
    size_t size = little(record + 24, 4), used, method = little(record + 10, 2);
    if (little(record + 8, 2) & 1)
        damaged(name, "it is encrypted");
    if (method == DEFLATED) {
        if (size / 1100 > stored.size) /* deflate packs at most 1032 to one */
            damaged(name, "a member is damaged");
        uint8_t *out = take(size);
        if (!inflate(stored, out, size, &used))
            damaged(name, "a member is damaged");
        stored = (Bytes){out, size};
    } else if (method != STORED || size != stored.size) {
        damaged(name, method == STORED ? "a member is damaged" : "it is compressed in an unusual way");
    }
    if (crc32(stored) != little(record + 16, 4))
        damaged(name, "a member's checksum differs");
    return stored;
}

Entry *parse_zip(Bytes content, const char *name, size_t *count) {
    const uint8_t *end = end_record(content);
    if (!end)
        damaged(name, "it is no archive, or cut off");
    size_t at = little(end + 16, 4);
    *count = little(end + 10, 2);
    Entry *entries = take(times(*count, sizeof *entries));
    for (size_t i = 0; i < *count; i++) {
        if (at > content.size || content.size - at < CENTRAL_BYTES || memcmp(content.bytes + at, "PK\1\2", 4))
            damaged(name, "its list of members is damaged");
        const uint8_t *record = content.bytes + at;
        size_t length = little(record + 28, 2);
        if (content.size - at - CENTRAL_BYTES < length)
            damaged(name, "its list of members is damaged");
        const char *called = copied((const char *)record + CENTRAL_BYTES, length);
        size_t shown = strlen(called);
        if (shown > 4 && !strcmp(called + shown - 4, ".npy"))
            called = copied(called, shown - 4);
        entries[i] = (Entry){called, unpacked(content, record, name)};
        at += CENTRAL_BYTES + length + little(record + 30, 2) + little(record + 32, 2);
    }
    return entries;
}
