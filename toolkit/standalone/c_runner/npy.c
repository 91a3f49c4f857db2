/* One array in numpy's file format. Source: numpy, numpy/lib/format.py, versions 1.0 and 2.0. */
#include <string.h>

#include "runner.h"

static const char SAVE_AGAIN[] = "save it again with numpy.save or savez: numbers, in C order";

typedef struct {
    const char *at, *end, *name; /* of a header; name: of the file */
} Header;

typedef struct {
    Type type;
    bool swapped; /* the most significant byte first */
    size_t rank;
    int64_t shape[MOST_AXES];
} Layout;

static _Noreturn void damaged(const char *name, const char *why) {
    fail(EXIT_INVALID, "cannot read %s: %s", "%s", name, why, SAVE_AGAIN);
}

static char next(Header *in) {
    while (in->at < in->end && (*in->at == ' ' || *in->at == '\n' || *in->at == '\t'))
        in->at++;
    return in->at < in->end ? *in->at : 0;
}

static void expect(Header *in, char wanted) {
    if (next(in) != wanted)
        damaged(in->name, "its header is damaged");
    in->at++;
}

static bool has_word(Header *in, const char *wanted) {
    size_t size = strlen(wanted);
    next(in);
    if ((size_t)(in->end - in->at) < size || memcmp(in->at, wanted, size))
        return false;
    in->at += size;
    return true;
}

static char *quoted(Header *in) {
    char quote = next(in);
    if (quote != '\'' && quote != '"')
        damaged(in->name, quote == '[' ? "it holds records, not numbers" : "its header is damaged");
    const char *start = ++in->at;
    const char *close = memchr(start, quote, (size_t)(in->end - start));
    if (!close)
        damaged(in->name, "its header is damaged");
    in->at = close + 1;
    return copied(start, (size_t)(close - start));
}

static void read_type(Header *in, Layout *layout) {
    static const char *const CODES[TYPES] = {"b1", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"};
    const char *code = quoted(in);
    layout->swapped = code[0] == '>';
    for (int i = 0; code[0] && strchr("<>|=", code[0]) && i < TYPES; i++)
        if (!strcmp(code + 1, CODES[i])) {
            layout->type = (Type)i;
            return;
        }
    damaged(in->name,
            strchr(code, 'O') ? "it holds Python objects, which are never unpickled" : text("it holds %s", code));
}

static void read_shape(Header *in, Layout *layout) {
    expect(in, '(');
    while (next(in) != ')') {
        int64_t size = 0;
        const char *start = in->at;
        for (; in->at < in->end && *in->at >= '0' && *in->at <= '9'; in->at++)
            if (__builtin_mul_overflow(size, 10, &size) || __builtin_add_overflow(size, *in->at - '0', &size))
                damaged(in->name, "its shape is too large");
        if (in->at == start || layout->rank == MOST_AXES)
            damaged(in->name, "its shape is damaged");
        layout->shape[layout->rank++] = size;
        if (next(in) != ')')
            expect(in, ',');
    }
    in->at++;
}

static Layout read_layout(Header in) {
    Layout layout = {.type = TYPES};
    int seen = 0;
    expect(&in, '{');
    while (next(&in) != '}') {
        const char *key = quoted(&in);
        expect(&in, ':');
        if (!strcmp(key, "descr") && !(seen & 1)) {
            read_type(&in, &layout);
            seen |= 1;
        } else if (!strcmp(key, "fortran_order") && !(seen & 2)) {
            if (has_word(&in, "True"))
                damaged(in.name, "its first axis varies fastest");
            if (!has_word(&in, "False"))
                damaged(in.name, "its header is damaged");
            seen |= 2;
        } else if (!strcmp(key, "shape") && !(seen & 4)) {
            read_shape(&in, &layout);
            seen |= 4;
        } else {
            damaged(in.name, "its header is damaged");
        }
        if (next(&in) != '}')
            expect(&in, ',');
    }
    if (seen != 7)
        damaged(in.name, "its header is damaged");
    return layout;
}

static void swap(uint8_t *bytes, size_t count, size_t width) {
    for (uint8_t *value = bytes; count--; value += width)
        for (size_t i = 0; i < width / 2; i++) {
            uint8_t kept = value[i];
            value[i] = value[width - 1 - i];
            value[width - 1 - i] = kept;
        }
}

Tensor parse_npy(Bytes content, const char *name) {
    if (content.size < 10 || memcmp(content.bytes, "\x93NUMPY", 6))
        damaged(name, "it is not numpy's format");
    const uint8_t *at = content.bytes;
    size_t start = at[6] == 1 ? 10 : 12, size = at[8] | (size_t)at[9] << 8;
    if ((at[6] != 1 && at[6] != 2) || at[7] || content.size < start)
        damaged(name, "this version of numpy's format holds no plain array");
    if (at[6] == 2)
        size |= (size_t)at[10] << 16 | (size_t)at[11] << 24;
    if (size > content.size - start)
        damaged(name, "its header is cut off");
    const char *header = (const char *)at + start;
    Layout layout = read_layout((Header){header, header + size, name});
    size_t bytes = TYPE_BYTES[layout.type];
    for (size_t i = 0; i < layout.rank; i++)
        bytes = times(bytes, (size_t)layout.shape[i]);
    if (bytes > content.size - start - size)
        damaged(name, "it ends before its last sample");
    Tensor made = tensor(name, layout.type, layout.shape, layout.rank);
    if (bytes)
        memcpy(made.values, at + start + size, bytes);
    if (layout.swapped)
        swap(made.values, made.count, TYPE_BYTES[layout.type]);
    for (size_t i = 0; layout.type == BOOL && i < made.count; i++)
        ((uint8_t *)made.values)[i] = ((uint8_t *)made.values)[i] != 0;
    return made;
}
