/* One line, a hint and an exit code; with --json the same as a document. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

bool as_json = false;

_Noreturn void fail(int code, const char *problem, const char *hint, ...) {
    static char format[1024], both[8192];
    va_list arguments;
    snprintf(format, sizeof format, "%s\x01%s", problem, hint);
    va_start(arguments, hint);
    vsnprintf(both, sizeof both, format, arguments);
    va_end(arguments);
    char *after = strrchr(both, '\x01'); /* no format ends in one, and the hint's own texts are ours */
    if (after)
        *after++ = 0;
    else
        after = both + strlen(both);
    printable(both);
    printable(after);
    fflush(stdout);
    fprintf(stderr, "error: %s\n  next: %s\n", both, after);
    if (as_json) {
        fputs("{\n \"schema\": \"toolkit.error/1\",\n \"problem\": ", stdout);
        show_json_string(stdout, both);
        fputs(",\n \"hint\": ", stdout);
        show_json_string(stdout, after);
        printf(",\n \"exit_code\": %d\n}\n", code);
    }
    exit(code);
}
