/* From a file that the user names to samples that fit the model: .npy, .npz, .wav or .png. */
#include <math.h>
#include <string.h>
#include <strings.h>

#include "runner.h"

static const char READS[] = "this runner reads .npy, .npz, .wav and .png";

static bool ends_in(const char *path, const char *suffix) {
    size_t size = strlen(path), wanted = strlen(suffix);
    return size > wanted && !strcasecmp(path + size - wanted, suffix);
}

/* One sample for the model: with a batch axis, finite, of its type and shape. */
static Tensor fitted(Tensor given, const Spec *spec, const char *where) {
    if (given.rank + 1 == spec->rank) {
        if (!spec->symbol[0] && spec->shape[0] != 1)
            fail(EXIT_INVALID, "%s: %s has a fixed batch of %lld, got one of %s", "give whole batches as samples",
                 where, spec->name, (long long)spec->shape[0], spelled_shape(given.shape, given.rank));
        memmove(given.shape + 1, given.shape, given.rank * sizeof *given.shape);
        given.shape[0] = 1;
        given.rank++;
    }
    given.name = spec->name;
    const char *problem = misfit(spec, &given);
    if (problem)
        fail(EXIT_INVALID, "%s: %s", "convert the data; the model's input is %s", where, problem, spelled_spec(spec));
    for (size_t i = 0; is_float(given.type) && i < given.count; i++)
        if (!isfinite(value_at(&given, i)))
            fail(EXIT_INVALID, "%s: %s holds NaN or infinity", "remove the samples that do", where, spec->name);
    return given;
}

/* ---- arrays, with samples along the first axis */

static Tensor row(const Tensor *array, size_t index) {
    Tensor made = *array;
    made.rank--;
    memmove(made.shape, made.shape + 1, made.rank * sizeof *made.shape);
    made.count = array->shape[0] ? array->count / (size_t)array->shape[0] : 0;
    made.values = (uint8_t *)array->values + index * made.count * TYPE_BYTES[made.type];
    return made;
}

static const Tensor *named(const Tensors *arrays, const Spec *spec, const Bundle *bundle) {
    if (arrays->count == 1 && bundle->input_count == 1)
        return arrays->items;
    for (size_t i = 0; i < arrays->count; i++)
        if (!strcmp(arrays->items[i].name, spec->name))
            return arrays->items + i;
    return NULL;
}

static const char *joined(const Tensors *arrays) {
    const char *made = arrays->count ? "" : "nothing";
    for (size_t i = 0; i < arrays->count; i++)
        made = text("%s%s%s", made, i ? ", " : "", arrays->items[i].name);
    return made;
}

static Samples from_arrays(const Tensors *arrays, const Bundle *bundle, const char *name) {
    Samples made = {0, false, NULL};
    for (size_t i = 0; i < bundle->input_count; i++) {
        const Tensor *array = named(arrays, bundle->inputs + i, bundle);
        if (!array || arrays->count != bundle->input_count)
            fail(EXIT_INVALID, "data '%s': the model takes %s%s; got %s",
                 "name the arrays as the model names its inputs", name, spelled_spec(bundle->inputs),
                 bundle->input_count > 1 ? " and more" : "", joined(arrays));
        if (!array->rank)
            fail(EXIT_INVALID, "data '%s': %s is a single number, no array of samples", "put samples first", name,
                 array->name);
        if (i && (size_t)array->shape[0] != made.count)
            fail(EXIT_INVALID, "data '%s': arrays of different length", "give every array one row a sample", name);
        made.count = (size_t)array->shape[0];
    }
    made.samples = take(times(made.count, sizeof *made.samples));
    for (size_t s = 0; s < made.count; s++) {
        made.samples[s].inputs = take(times(bundle->input_count, sizeof(Tensor)));
        for (size_t i = 0; i < bundle->input_count; i++)
            made.samples[s].inputs[i] = fitted(row(named(arrays, bundle->inputs + i, bundle), s), bundle->inputs + i,
                                               text("data '%s': sample %zu", name, s));
    }
    return made;
}

static bool is_input(const Bundle *bundle, const char *name) {
    for (size_t i = 0; i < bundle->input_count; i++)
        if (!strcmp(bundle->inputs[i].name, name))
            return true;
    return false;
}

static Tensors read_arrays(Bytes content, const Bundle *bundle, const char *name) {
    size_t count;
    Tensors arrays = {take(sizeof(Tensor)), 1};
    if (content.size < 2 || memcmp(content.bytes, "PK", 2)) {
        arrays.items[0] = parse_npy(content, name);
        arrays.items[0].name = "arr_0";
        return arrays;
    }
    Entry *entries = parse_zip(content, name, &count);
    arrays = (Tensors){take(times(count, sizeof(Tensor))), 0};
    for (size_t i = 0; i < count; i++) {
        if (!strcmp(entries[i].name, "labels") && !is_input(bundle, "labels"))
            continue; /* classes, which nobody asks for here */
        arrays.items[arrays.count] = parse_npy(entries[i].content, text("%s, %s", name, entries[i].name));
        arrays.items[arrays.count++].name = entries[i].name;
    }
    return arrays;
}

/* ---- recordings: pieces as long as the model's input */

static Samples from_sound(Tensor values, const Bundle *bundle, const char *name) {
    const Spec *spec = bundle->inputs;
    bool takes = bundle->input_count == 1 && spec->rank && is_float(spec->type);
    for (size_t i = 0; takes && i + 1 < spec->rank; i++)
        takes = spec->symbol[i] || spec->shape[i] == 1;
    if (!takes)
        fail(EXIT_INVALID, "the model takes %s, not one mono recording", "give arrays: .npz or .npy",
             spelled_spec(spec));
    size_t last = spec->rank - 1, length = spec->symbol[last] ? values.count : (size_t)spec->shape[last];
    if (!length || length > values.count)
        fail(EXIT_INVALID, "%s holds %zu values, the model takes %zu at once",
             "give a longer recording, at the sampling rate that the model was trained with", name, values.count,
             length);
    Samples made = {values.count / length, false, NULL};
    made.samples = take(times(made.count, sizeof *made.samples));
    for (size_t s = 0; s < made.count; s++) {
        int64_t shape[MOST_AXES];
        for (size_t i = 0; i < spec->rank; i++)
            shape[i] = i == last ? (int64_t)length : 1;
        Tensor *input = made.samples[s].inputs = take(sizeof *input);
        *input = tensor(spec->name, spec->type, shape, spec->rank);
        for (size_t i = 0; i < length; i++)
            set_value(input, i, value_at(&values, s * length + i));
    }
    return made;
}

static Samples from_image(const char *path, const Bundle *bundle, const char *name, const char *how) {
    const Spec *spec = bundle->inputs;
    if (!how || !*how)
        fail(EXIT_INVALID, "%s holds images, and nothing says how they become inputs",
             "state it as the model was trained: --preprocess raw, or for instance --preprocess mean=127,std=128",
             path);
    if (bundle->input_count != 1)
        fail(EXIT_INVALID, "the model takes %zu inputs, not one image", "give arrays: .npz", bundle->input_count);
    check_preprocessing(spec, how);
    Samples made = {1, true, take(sizeof(Sample))};
    bool gray = spec->shape[1] == 1 || (spec->shape[1] != 3 && spec->shape[3] == 1);
    Image image = parse_png(read_file(path, path, "check the path"), name, gray);
    made.samples[0].inputs = take(sizeof(Tensor));
    made.samples[0].inputs[0] = fitted(prepared(image, name, spec, how), spec, text("data '%s': %s", name, name));
    return made;
}

Samples read_samples(const char *path, const Bundle *bundle, const char *preprocess) {
    static const char *const OTHERS[] = {".bmp", ".gif", ".jpg", ".jpeg", ".pgm", ".ppm", ".tif", ".tiff", ".webp"};
    const char *name = last_part(path);
    Samples made;
    for (size_t i = 0; i < sizeof OTHERS / sizeof *OTHERS; i++)
        if (ends_in(path, OTHERS[i]))
            fail(EXIT_INVALID, "cannot read the image %s: %s", "save it as PNG", name, READS);
    if (ends_in(path, ".png")) {
        made = from_image(path, bundle, name, preprocess ? preprocess : bundle->preprocessing);
    } else {
        Bytes content = read_file(path, text("data %s", path), READS);
        if (ends_in(path, ".wav")) {
            made = from_sound(parse_sound(content, name), bundle, name);
        } else {
            Tensors arrays = read_arrays(content, bundle, text("data %s", path));
            made = from_arrays(&arrays, bundle, name);
        }
        if (preprocess && *preprocess)
            fail(EXIT_USAGE, "--preprocess is for images; data '%s' is taken as it is",
                 "leave it out, or give an image", name);
    }
    if (!made.count)
        fail(EXIT_INVALID, "data '%s' has no samples", "give at least one sample", name);
    return made;
}
