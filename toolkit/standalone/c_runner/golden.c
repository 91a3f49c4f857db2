/* Golden samples: what the artefact was given when it was made, what it answered, and what the float model did. */
#include <stdlib.h>
#include <string.h>

#include "runner.h"

static _Noreturn void damaged(const char *path, const char *why) {
    fail(EXIT_INVALID, "%s is damaged: %s", "copy the bundle again, or compile again", path, why);
}

/* `0/input/NAME` and so on: the number of the sample and the kind, 0 to 2; the name follows. */
static const char *placed(const char *path, const char *entry, size_t entries, size_t *sample, int *kind) {
    static const char *const KINDS[] = {"input/", "output/", "reference/"};
    char *after;
    unsigned long number = strtoul(entry, &after, 10);
    if (*entry < '0' || *entry > '9' || *after != '/' || number >= entries)
        damaged(path, text("it holds %s", entry));
    *sample = number;
    for (*kind = 0; *kind < 3; ++*kind)
        if (!strncmp(after + 1, KINDS[*kind], strlen(KINDS[*kind])))
            return after + 1 + strlen(KINDS[*kind]);
    damaged(path, text("it holds %s", entry));
}

static const Tensor *of_name(const Tensors *tensors, const char *name) {
    for (size_t i = 0; i < tensors->count; i++)
        if (!strcmp(tensors->items[i].name, name))
            return tensors->items + i;
    return NULL;
}

static void check_answers(const char *path, const Golden *golden) {
    bool same = golden->outputs.count && golden->outputs.count == golden->reference.count;
    for (size_t i = 0; same && i < golden->outputs.count; i++)
        same = of_name(&golden->reference, golden->outputs.items[i].name) != NULL;
    if (!same)
        damaged(path, "a sample without its answers");
}

Golden *read_golden(const Bundle *bundle, size_t *count) {
    const char *path = text("%s/golden.npz", bundle->folder);
    size_t entries, sample;
    int kind;
    Entry *found = parse_zip(read_file(path, path, "copy the bundle again"), path, &entries);
    Golden *made = take(times(entries, sizeof *made));
    *count = 0;
    for (size_t i = 0; i < entries; i++) {
        const char *name = placed(path, found[i].name, entries, &sample, &kind);
        Tensors *part = kind == 0 ? &made[sample].inputs : kind == 1 ? &made[sample].outputs : &made[sample].reference;
        if (!part->items)
            part->items = take(times(entries, sizeof(Tensor)));
        part->items[part->count] = parse_npy(found[i].content, path);
        part->items[part->count++].name = name;
        *count = sample + 1 > *count ? sample + 1 : *count;
    }
    if (!*count)
        damaged(path, "it holds no samples");
    for (size_t i = 0; i < *count; i++)
        check_answers(path, made + i);
    return made;
}

Sample golden_sample(const Golden *golden, const Bundle *bundle) {
    Sample made = {take(times(bundle->input_count, sizeof(Tensor)))};
    for (size_t i = 0; i < bundle->input_count; i++) {
        const Spec *spec = bundle->inputs + i;
        const Tensor *given = of_name(&golden->inputs, spec->name);
        if (!given || golden->inputs.count != bundle->input_count)
            fail(EXIT_INVALID, "golden.npz lacks the input %s", "copy the bundle again, or compile again",
                 spelled_spec(spec));
        const char *problem = misfit(spec, given);
        if (problem)
            fail(EXIT_INVALID, "golden.npz: %s", "copy the bundle again, or compile again", problem);
        made.inputs[i] = *given;
    }
    return made;
}
