/* The self-test: are the answers those recorded? By the rule of toolkit/verify/golden.py. */
#include <math.h>
#include <string.h>

#include "runner.h"

typedef struct {
    double signal, noise, reference_noise;
} Powers;

typedef struct {
    double sqnr_db, reference_sqnr_db, floor_db;
    bool passed;
} Verdict;

static const double FLOAT32_FLOOR_DB = 80;

static double decibels(double signal, double noise) {
    if (noise == 0)
        return INFINITY;
    return isinf(noise) || !(signal > 0) ? -INFINITY : 10 * log10(signal / noise);
}

/* The error of one value: equal infinities and NaN in both places are none; whole numbers that differ do so by one. */
static double error_at(const Tensor *want, const Tensor *have, size_t i) {
    double a = value_at(want, i), b = value_at(have, i);
    bool whole = !is_float(want->type) && !is_float(have->type), same = a == b || (isnan(a) && isnan(b));
    if (whole && want->type == have->type) {
        size_t bytes = TYPE_BYTES[want->type];
        same = !memcmp((const uint8_t *)want->values + i * bytes, (const uint8_t *)have->values + i * bytes, bytes);
    }
    double error = same ? 0 : fabs(a - b);
    return isnan(error) ? INFINITY : whole && !same ? fmax(error, 1) : error;
}

static bool same_shape(const Tensor *a, const Tensor *b) {
    return a->rank == b->rank && !memcmp(a->shape, b->shape, a->rank * sizeof *a->shape);
}

static double noise_of(const Tensor *want, const Tensor *have) {
    double sum = 0;
    if (!same_shape(want, have))
        return INFINITY;
    for (size_t i = 0; i < want->count; i++) {
        double error = error_at(want, have, i);
        sum += error * error;
    }
    return sum;
}

static double signal_of(const Tensor *want, const Tensor *have) {
    double sum = 0;
    for (size_t i = 0; same_shape(want, have) && i < want->count; i++) {
        double value = value_at(want, i);
        sum += isfinite(value) ? value * value : 0;
    }
    return sum;
}

static const Tensor *of_name(const Tensors *tensors, const char *name) {
    for (size_t i = 0; i < tensors->count; i++)
        if (!strcmp(tensors->items[i].name, name))
            return tensors->items + i;
    fail(EXIT_INVALID, "golden.npz holds no %s, which the artefact answers", "copy the bundle again, or compile again",
         name);
}

static void add(Powers *powers, const Golden *golden, const Tensor *have) {
    const Tensor *want = of_name(&golden->outputs, have->name);
    powers->signal += signal_of(want, have);
    powers->noise += noise_of(want, have);
    powers->reference_noise += noise_of(want, of_name(&golden->reference, have->name));
}

static Verdict judged(const Powers *powers) {
    Verdict made = {decibels(powers->signal, powers->noise), decibels(powers->signal, powers->reference_noise), 0,
                    false};
    made.floor_db = fmax(0, fmin(FLOAT32_FLOOR_DB, made.reference_sqnr_db));
    made.passed = made.sqnr_db >= made.floor_db;
    return made;
}

/* By how much more than it must an output agrees; what fails comes first. */
static bool worse(const Verdict *a, const Verdict *b) {
    if (a->passed != b->passed)
        return b->passed;
    double spare_a = isinf(a->sqnr_db) && a->sqnr_db > 0 ? INFINITY : a->sqnr_db - a->floor_db;
    double spare_b = isinf(b->sqnr_db) && b->sqnr_db > 0 ? INFINITY : b->sqnr_db - b->floor_db;
    return spare_a < spare_b;
}

static const char *spelled(double db) { return isinf(db) && db > 0 ? "identical" : text("%.1f dB", db); }

static void show(const Bundle *bundle, const Verdict *verdict, size_t samples) {
    if (!as_json) {
        const char *by = strcmp(bundle->artefact, file_run(bundle))
                             ? text(" (%s through onnxruntime; the device runs %s)", GRAPH, bundle->artefact)
                             : "";
        printf("%s: %zu golden samples%s: %s against the answers recorded (needed: %s)\n", bundle->name, samples, by,
               spelled(verdict->sqnr_db), spelled(verdict->floor_db));
        puts(verdict->passed ? "passed" : "FAILED: the answers on this machine are not those recorded");
        return;
    }
    const char *const names[] = {"sqnr_db", "reference_sqnr_db", "floor_db"};
    const double values[] = {verdict->sqnr_db, verdict->reference_sqnr_db, verdict->floor_db};
    printf("{\n \"schema\": \"toolkit.verify/1\",\n \"passed\": %s,\n \"samples\": %zu",
           verdict->passed ? "true" : "false", samples);
    for (int i = 0; i < 3; i++) {
        printf(",\n \"%s\": ", names[i]);
        show_json_number(stdout, isinf(values[i]) ? values[i] : nearbyint(values[i] * 100) / 100, false);
    }
    puts("\n}");
}

int self_test(const Bundle *bundle) {
    size_t samples, outputs = 0;
    Golden *golden = read_golden(bundle, &samples);
    Powers *powers = NULL;
    for (size_t i = 0; i < samples; i++) {
        Sample sample = golden_sample(golden + i, bundle);
        Tensors answer = run_session(bundle, &sample);
        if (!powers)
            powers = take(times(outputs = answer.count, sizeof *powers));
        if (golden[i].outputs.count != answer.count)
            fail(EXIT_INVALID, "golden.npz holds %zu outputs, the artefact answers %zu",
                 "copy the bundle again, or compile again", golden[i].outputs.count, answer.count);
        for (size_t j = 0; j < outputs; j++)
            add(powers + j, golden + i, answer.items + j);
    }
    Verdict found = judged(powers);
    for (size_t j = 1; j < outputs; j++) {
        Verdict other = judged(powers + j);
        if (worse(&other, &found))
            found = other;
    }
    show(bundle, &found, samples);
    return found.passed ? EXIT_OK : EXIT_NEGATIVE;
}
