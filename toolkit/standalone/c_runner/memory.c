/* Memory that lives as long as the process: every block hangs in one chain. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

typedef struct Block {
    struct Block *before;
    max_align_t values[];
} Block;

static const size_t MOST_BYTES = (size_t)1 << (sizeof(size_t) > 4 ? 36 : 30);
static Block *last;

void *take(size_t bytes) {
    Block *block = bytes <= MOST_BYTES ? calloc(1, sizeof *block + (bytes ? bytes : 1)) : NULL;
    if (!block)
        fail(EXIT_INVALID, "not enough memory for %.3g MB", "give smaller files", (double)bytes / 1e6);
    block->before = last;
    last = block;
    return block->values;
}

size_t times(size_t a, size_t b) {
    size_t product;
    return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}

char *copied(const char *bytes, size_t size) {
    char *copy = take(size + 1);
    if (size)
        memcpy(copy, bytes, size);
    return copy;
}

char *text(const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int size = vsnprintf(NULL, 0, format, arguments);
    char *made = take((size_t)(size > 0 ? size : 0) + 1);
    vsnprintf(made, (size_t)(size > 0 ? size : 0) + 1, format, again);
    va_end(again);
    va_end(arguments);
    return made;
}
