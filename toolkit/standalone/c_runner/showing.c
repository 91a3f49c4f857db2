/* Strings and numbers as JSON writes them, and what may be written at all. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

/* Bytes of the UTF-8 character at `at`, or 0 where there is none. Source: Unicode, table 3-7. */
size_t utf8_bytes(const uint8_t *at, const uint8_t *end) {
    uint8_t c = at[0];
    if (c < 0x80)
        return 1;
    size_t size = c >= 0xC2 && c < 0xE0 ? 2 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
    if (!size || (size_t)(end - at) < size)
        return 0;
    uint8_t low = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80, high = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    if (at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < size; i++)
        if (at[i] < 0x80 || at[i] > 0xBF)
            return 0;
    return size;
}

/* Names come out of files: what is no text must not reach a terminal, nor a document. */
char *printable(char *string) {
    const uint8_t *end = (uint8_t *)string + strlen(string);
    for (uint8_t *at = (uint8_t *)string; at < end;) {
        size_t size = utf8_bytes(at, end);
        if (!size)
            *at = '?';
        else if (*at < 0x20 || *at == 0x7F)
            *at = ' ';
        at += size ? size : 1;
    }
    return string;
}

void show_json_string(FILE *out, const char *string) {
    fputc('"', out);
    for (const char *c = printable(copied(string, strlen(string))); *c; c++) {
        if (*c == '"' || *c == '\\')
            fputc('\\', out);
        fputc(*c, out);
    }
    fputc('"', out);
}

void show_json_number(FILE *out, double value, bool whole) {
    char written[40];
    if (!isfinite(value)) {
        fputs("null", out);
        return;
    }
    for (int digits = 15; digits <= 17; digits++) { /* the fewest that read back as the same number */
        snprintf(written, sizeof written, "%.*g", digits, value);
        if (strtod(written, NULL) == value)
            break;
    }
    fputs(written, out);
    if (!whole && !strpbrk(written, ".e"))
        fputs(".0", out);
}
