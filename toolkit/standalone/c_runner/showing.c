/* Strings and numbers as JSON writes them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

void show_json_string(FILE *out, const char *string) {
    fputc('"', out);
    for (const unsigned char *c = (const unsigned char *)string; *c; c++) {
        if (*c == '"' || *c == '\\')
            fprintf(out, "\\%c", *c);
        else if (*c < 0x20)
            fprintf(out, "\\u%04x", *c);
        else
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
