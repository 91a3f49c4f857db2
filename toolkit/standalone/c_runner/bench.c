/* Latency on this machine, as a line of a table for `toolkit calibrate`; columns: toolkit/calibration/rows.py. */
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "runner.h"

enum { WARM_UP = 3, COLUMNS = 17 };

static const char *const NAMES[COLUMNS] = {
    "id",           "device",     "device_variant", "runtime",     "precision",  "threads",
    "batch",        "model",      "family",         "input_shape", "latency_ms", "fps",
    "source_title", "source_ref", "date",           "notes",       "path",
};

typedef struct {
    const char *cells[COLUMNS];
} Row;

static void set(Row *row, const char *name, const char *value) {
    for (int i = 0; i < COLUMNS; i++)
        if (!strcmp(NAMES[i], name))
            row->cells[i] = value;
}

/* ---- time */

static double seconds(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int rising(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median of the fastest half. One thread is timed by the clock that stands still while another process runs. */
static double fastest_half_s(const Bundle *bundle, const Sample *sample, int runs, int threads) {
    clockid_t clock = threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    double *took = take(times((size_t)runs, sizeof *took));
    for (int i = 0; i < WARM_UP; i++)
        run_again(bundle, sample);
    for (int i = 0; i < runs; i++) {
        double before = seconds(clock);
        run_again(bundle, sample);
        took[i] = seconds(clock) - before;
    }
    qsort(took, (size_t)runs, sizeof *took, rising);
    int half = (runs + 1) / 2;
    return (took[(half - 1) / 2] + took[half / 2]) / 2;
}

/* ---- setting */

/* What stands behind `mark` in a file of the system, on one line with single spaces; NULL where there is none. */
static char *told(const char *path, const char *mark) {
    static char line[4096];
    FILE *file = fopen(path, "r");
    char *found = NULL, *out = line;
    while (file && !found && fgets(line, sizeof line, file))
        if (!strncmp(line, mark, strlen(mark)))
            found = line + strlen(mark);
    if (file)
        fclose(file);
    if (!found)
        return NULL;
    for (found += strspn(found, " \t:"); *found; found++)
        if (!strchr(" \t\r\n", *found))
            *out++ = *found;
        else if (out > line && out[-1] != ' ')
            *out++ = ' ';
    *out = 0;
    if (out > line && out[-1] == ' ')
        out[-1] = 0;
    return *line ? copied(line, strlen(line)) : NULL;
}

static char *processor(void) {
    struct utsname machine;
    char *name = told("/proc/device-tree/model", "");
    if (!name)
        name = told("/proc/cpuinfo", "model name");
    if (!name)
        name = uname(&machine) ? "unknown" : copied(machine.machine, strlen(machine.machine));
    return text("%s, %ld cores", name, sysconf(_SC_NPROCESSORS_ONLN));
}

/* What the compile knew of the stack, from runner.json beside this program; without it the target's name says it. */
static void set_stack(Row *row, const Bundle *bundle) {
    const char *path = text("%s/runner.json", program_folder());
    const Json *facts = is_file(path) ? parse_json(read_file(path, path, "copy the folder run/ again")) : NULL;
    const char *stack = member_string(facts, "stack");
    bool known =
        stack && !strcmp(stack, bundle->stack) && member_string(facts, "device") && member_string(facts, "precision");
    set(row, "device", known ? member_string(facts, "device") : bundle->target);
    set(row, "precision", known ? member_string(facts, "precision") : "");
}

static const char *spelled(const Tensors *inputs) {
    const char *made = "";
    for (size_t i = 0; i < inputs->count; i++) {
        const Tensor *each = inputs->items + i;
        made = text("%s%s%s%s", made, i ? "; " : "", inputs->count > 1 ? each->name : "", inputs->count > 1 ? "=" : "");
        for (size_t axis = 0; axis < each->rank; axis++)
            made = text("%s%s%lld", made, axis ? "x" : "", (long long)each->shape[axis]);
        made = text("%s%s%s%s", made, each->rank ? "" : "scalar", each->type == FLOAT32 ? "" : ":",
                    each->type == FLOAT32 ? "" : TYPE_NAMES[each->type]);
    }
    return made;
}

/* ---- the line */

static void show_cell(const char *cell) {
    if (!strpbrk(cell, ",\"\r\n")) {
        fputs(cell, stdout);
        return;
    }
    putchar('"');
    for (; *cell; cell++) {
        if (*cell == '"')
            putchar('"');
        putchar(*cell);
    }
    putchar('"');
}

static void show(const Row *row, int runs, double latency_s) {
    if (as_json) {
        printf("{\n \"schema\": \"toolkit.runner.bench/1\",\n \"runs\": %d,\n \"latency_s\": ", runs);
        show_json_number(stdout, latency_s, false);
        for (int i = 0; i < COLUMNS; i++)
            if (strcmp(NAMES[i], "latency_ms")) {
                printf(",\n \"%s\": ", NAMES[i]);
                show_json_string(stdout, row->cells[i]);
            }
        puts("\n}");
        return;
    }
    for (int i = 0; i < COLUMNS; i++)
        printf("%s%s", i ? "," : "", NAMES[i]);
    putchar('\n');
    for (int i = 0; i < COLUMNS; i++) {
        fputs(i ? "," : "", stdout);
        show_cell(row->cells[i]);
    }
    putchar('\n');
}

int bench(const Bundle *bundle, int runs, int threads) {
    size_t count;
    Golden *golden = read_golden(bundle, &count);
    Sample sample = golden_sample(golden, bundle);
    double latency_ms = fastest_half_s(bundle, &sample, runs, threads) * 1e3;
    const char *shown = text("%.5g", latency_ms);
    Row row;
    for (int i = 0; i < COLUMNS; i++)
        row.cells[i] = "";
    set_stack(&row, bundle);
    set(&row, "device_variant", processor());
    set(&row, "runtime", runtime_name());
    set(&row, "threads", text("%d", threads));
    set(&row, "batch", "1");
    set(&row, "model", bundle->name);
    set(&row, "input_shape", spelled(&golden->inputs));
    set(&row, "latency_ms", shown);
    set(&row, "source_title", "measured by the runner of a bundle");
    set(&row, "source_ref", text("median of the fastest half of %d runs", runs));
    set(&row, "path", text("%s/%s", last_part(absolute(bundle->folder)), GRAPH));
    show(&row, runs, strtod(shown, NULL) / 1e3);
    return EXIT_OK;
}
