/* Strict JSON in UTF-8, as a tree. Source: RFC 8259; a string with a zero in it is refused. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

enum { DEEPEST = 64 };

typedef struct {
    const uint8_t *at, *end;
} Reader;

static bool value(Reader *in, Json *node, int depth);

static void skip_space(Reader *in) {
    while (in->at < in->end && (*in->at == ' ' || *in->at == '\t' || *in->at == '\n' || *in->at == '\r'))
        in->at++;
}

static bool next_is(Reader *in, uint8_t wanted) {
    if (in->at == in->end || *in->at != wanted)
        return false;
    in->at++;
    return true;
}

static bool word(Reader *in, const char *wanted) {
    size_t size = strlen(wanted);
    if ((size_t)(in->end - in->at) < size || memcmp(in->at, wanted, size))
        return false;
    in->at += size;
    return true;
}

/* ---- strings */

static bool hex4(Reader *in, uint32_t *unit) {
    *unit = 0;
    for (int i = 0; i < 4; i++) {
        if (in->at == in->end)
            return false;
        uint8_t c = *in->at++;
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return false;
        *unit = *unit << 4 | (uint32_t)digit;
    }
    return true;
}

static char *put_utf8(char *out, uint32_t code) {
    if (code < 0x80) {
        *out++ = (char)code;
    } else if (code < 0x800) {
        *out++ = (char)(0xC0 | code >> 6);
        *out++ = (char)(0x80 | (code & 63));
    } else if (code < 0x10000) {
        *out++ = (char)(0xE0 | code >> 12);
        *out++ = (char)(0x80 | (code >> 6 & 63));
        *out++ = (char)(0x80 | (code & 63));
    } else {
        *out++ = (char)(0xF0 | code >> 18);
        *out++ = (char)(0x80 | (code >> 12 & 63));
        *out++ = (char)(0x80 | (code >> 6 & 63));
        *out++ = (char)(0x80 | (code & 63));
    }
    return out;
}

static bool escaped(Reader *in, char **out) {
    static const char LETTERS[] = "\"\\/bfnrt", MEANT[] = "\"\\/\b\f\n\r\t";
    if (in->at == in->end)
        return false;
    uint8_t c = *in->at++;
    const char *letter = c ? strchr(LETTERS, c) : NULL;
    if (letter) {
        *(*out)++ = MEANT[letter - LETTERS];
        return true;
    }
    uint32_t code, low;
    if (c != 'u' || !hex4(in, &code) || !code)
        return false;
    if (code >= 0xD800 && code < 0xDC00) {
        if (!word(in, "\\u") || !hex4(in, &low) || low < 0xDC00 || low > 0xDFFF)
            return false;
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
        return false;
    }
    *out = put_utf8(*out, code);
    return true;
}

static const char *string(Reader *in) {
    if (!next_is(in, '"'))
        return NULL;
    size_t longest = 0; /* an escape is never shorter than what it stands for */
    while (in->at + longest < in->end && in->at[longest] != '"')
        longest += in->at[longest] == '\\' && in->at + longest + 1 < in->end ? 2 : 1;
    char *made = take(longest + 1), *out = made;
    while (in->at < in->end && *in->at != '"') {
        if (next_is(in, '\\')) {
            if (!escaped(in, &out))
                return NULL;
            continue;
        }
        size_t size = *in->at < 0x20 ? 0 : utf8_bytes(in->at, in->end);
        if (!size)
            return NULL;
        memcpy(out, in->at, size);
        out += size;
        in->at += size;
    }
    return next_is(in, '"') ? made : NULL;
}

/* ---- values */

static bool digits(Reader *in) {
    const uint8_t *start = in->at;
    while (in->at < in->end && *in->at >= '0' && *in->at <= '9')
        in->at++;
    return in->at > start;
}

static bool number(Reader *in, double *out) {
    const uint8_t *start = in->at;
    next_is(in, '-');
    if (!next_is(in, '0') && !digits(in))
        return false;
    if (next_is(in, '.') && !digits(in))
        return false;
    if (next_is(in, 'e') || next_is(in, 'E')) {
        if (!next_is(in, '+'))
            next_is(in, '-');
        if (!digits(in))
            return false;
    }
    *out = strtod(copied((const char *)start, (size_t)(in->at - start)), NULL);
    return true;
}

static bool members(Reader *in, Json *node, int depth, bool named) {
    uint8_t close = named ? '}' : ']';
    Json **place = &node->first;
    skip_space(in);
    if (next_is(in, close))
        return true;
    for (;;) {
        Json *child = take(sizeof *child);
        *place = child;
        place = &child->next;
        skip_space(in);
        if (named) {
            if (!(child->name = string(in)))
                return false;
            skip_space(in);
            if (!next_is(in, ':'))
                return false;
        }
        if (!value(in, child, depth + 1))
            return false;
        skip_space(in);
        if (next_is(in, close))
            return true;
        if (!next_is(in, ','))
            return false;
    }
}

static bool value(Reader *in, Json *node, int depth) {
    skip_space(in);
    if (in->at == in->end || depth > DEEPEST)
        return false;
    switch (*in->at) {
    case '{':
        in->at++;
        node->kind = JSON_OBJECT;
        return members(in, node, depth, true);
    case '[':
        in->at++;
        node->kind = JSON_ARRAY;
        return members(in, node, depth, false);
    case '"': node->kind = JSON_STRING; return (node->string = string(in)) != NULL;
    case 't': node->kind = JSON_TRUE; return word(in, "true");
    case 'f': node->kind = JSON_FALSE; return word(in, "false");
    case 'n': node->kind = JSON_NULL; return word(in, "null");
    default: node->kind = JSON_NUMBER; return number(in, &node->number);
    }
}

const Json *parse_json(Bytes content) {
    Reader in = {content.bytes, content.bytes + content.size};
    Json *root = take(sizeof *root);
    if (!value(&in, root, 0))
        return NULL;
    skip_space(&in);
    return in.at == in.end ? root : NULL;
}

const Json *member(const Json *object, const char *name) {
    const Json *found = NULL; /* of equal names the last one counts, as in Python */
    for (const Json *each = object && object->kind == JSON_OBJECT ? object->first : NULL; each; each = each->next)
        if (!strcmp(each->name, name))
            found = each;
    return found;
}

const char *member_string(const Json *object, const char *name) {
    const Json *found = member(object, name);
    return found && found->kind == JSON_STRING ? found->string : NULL;
}
