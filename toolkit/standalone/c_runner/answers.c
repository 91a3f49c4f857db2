/* Answers to samples, for people and for JSON; as toolkit/answers.py shows them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runner.h"

enum { SHOWN_SAMPLES = 10, SHOWN_VALUES = 3 };

/* One output of all samples, which follow one another along the first axis. */
static Tensor stacked(const Tensors *answers, size_t count, size_t output) {
    Tensor first = answers[0].items[output];
    if (!first.rank)
        first.shape[first.rank++] = 1;
    int64_t rows = 0;
    for (size_t i = 0; i < count; i++) {
        const Tensor *each = answers[i].items + output;
        size_t rank = each->rank ? each->rank : 1;
        int64_t own = each->rank ? each->shape[0] : 1;
        if (each->type != first.type || rank != first.rank ||
            (rank > 1 && memcmp(each->shape + 1, first.shape + 1, (rank - 1) * sizeof *first.shape)))
            fail(EXIT_INVALID, "the answers %s to the samples differ in shape", "give samples of one shape",
                 first.name);
        rows += own;
    }
    first.shape[0] = rows;
    Tensor made = tensor(first.name, first.type, first.shape, first.rank);
    uint8_t *at = made.values;
    for (size_t i = 0; i < count; i++) {
        const Tensor *each = answers[i].items + output;
        size_t bytes = each->count * TYPE_BYTES[each->type];
        if (bytes)
            memcpy(at, each->values, bytes);
        at += bytes;
    }
    return made;
}

/* ---- for people */

static const Tensor *sorting;

static int falling(const void *a, const void *b) { /* what is no number comes first, as numpy sorts it last */
    size_t i = *(const size_t *)a, j = *(const size_t *)b;
    double x = value_at(sorting, i), y = value_at(sorting, j);
    if (isnan(x) || isnan(y))
        return isnan(x) && isnan(y) ? (i < j) - (i > j) : isnan(x) ? -1 : 1;
    return x < y ? 1 : x > y ? -1 : (i < j) - (i > j);
}

static void show_lines(const Tensor *output) {
    size_t rows = (size_t)output->shape[0], width = rows ? output->count / rows : 0;
    printf("%s: %s%s\n", output->name, TYPE_NAMES[output->type], spelled_shape(output->shape, output->rank));
    size_t *order = take(times(width, sizeof *order));
    for (size_t row = 0; row < rows && row < SHOWN_SAMPLES; row++) {
        for (size_t i = 0; i < width; i++)
            order[i] = row * width + i;
        sorting = output;
        if (width)
            qsort(order, width, sizeof *order, falling);
        printf("  sample %zu: ", row);
        for (size_t i = 0; i < width && i < SHOWN_VALUES; i++) {
            double value = value_at(output, order[i]);
            printf("%s[%zu] ", i ? ", " : "", order[i] - row * width);
            isnan(value) ? fputs("nan", stdout) : printf("%.4g", value);
        }
        putchar('\n');
    }
}

/* ---- for JSON */

static void show_value(const Tensor *values, size_t index) {
    if (values->type == BOOL)
        fputs(value_at(values, index) != 0 ? "true" : "false", stdout);
    else if (values->type == UINT64)
        printf("%llu", (unsigned long long)((const uint64_t *)values->values)[index]);
    else if (values->type == INT64)
        printf("%lld", (long long)((const int64_t *)values->values)[index]);
    else
        show_json_number(stdout, value_at(values, index), !is_float(values->type));
}

static void show_nested(const Tensor *values, size_t axis, size_t *index) {
    if (axis == values->rank) {
        show_value(values, (*index)++);
        return;
    }
    putchar('[');
    for (int64_t i = 0; i < values->shape[axis]; i++) {
        if (i)
            fputs(", ", stdout);
        show_nested(values, axis + 1, index);
    }
    putchar(']');
}

int answer_samples(const Bundle *bundle, const Samples *samples) {
    Tensors *answers = take(times(samples->count, sizeof *answers));
    for (size_t i = 0; i < samples->count; i++)
        answers[i] = run_session(bundle, samples->samples + i);
    if (as_json)
        fputs("{\n \"schema\": \"toolkit.run/1\",\n \"outputs\": {", stdout);
    for (size_t output = 0; output < answers[0].count; output++) {
        Tensor all = stacked(answers, samples->count, output);
        size_t index = 0;
        if (!as_json) {
            show_lines(&all);
            continue;
        }
        fputs(output ? ",\n  " : "\n  ", stdout);
        show_json_string(stdout, all.name);
        fputs(": ", stdout);
        show_nested(&all, 0, &index);
    }
    if (as_json)
        fputs("\n }\n}\n", stdout);
    return EXIT_OK;
}
