/* The model as a program whose C and kernels are linked into this one. */
#include <string.h>

#include "linked.h"
#include "model.h"
#include "runner.h"

static const char DAMAGED[] = "copy the folder run/ again";

static unsigned char given[MODEL_INPUT_BYTES], answer[MODEL_OUTPUT_BYTES];

const char *runtime_name(void) { return LINKED_RUNTIME; }

const char *file_run(const Bundle *bundle) { return bundle->artefact; }

static size_t bytes_of(const Spec *spec) {
    size_t bytes = TYPE_BYTES[spec->type];
    for (size_t i = 0; i < spec->rank; i++)
        bytes = times(bytes, spec->symbol[i] ? 0 : (size_t)spec->shape[i]);
    return bytes;
}

static size_t all_bytes(const Spec *specs, size_t count) {
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += bytes_of(specs + i);
    return bytes;
}

void open_session(const Bundle *bundle, int threads) {
    if (strcmp(bundle->graph_sha256, LINKED_GRAPH_SHA256) ||
        all_bytes(bundle->inputs, bundle->input_count) != sizeof given ||
        all_bytes(bundle->outputs, bundle->output_count) != sizeof answer)
        fail(EXIT_INVALID, "this runner holds another network than %s", "take the runner in run/ of that bundle",
             bundle->folder);
    if (threads != 1)
        fail(EXIT_USAGE, "a program runs on one thread, not on %d", "leave --threads out", threads);
    if (!model_weights_intact())
        fail(EXIT_INVALID, "the weights in this program are damaged", DAMAGED);
}

void run_again(const Bundle *bundle, const Sample *sample) {
    unsigned char *at = given;
    for (size_t i = 0; i < bundle->input_count; i++) {
        size_t bytes = bytes_of(bundle->inputs + i);
        memcpy(at, sample->inputs[i].values, bytes);
        at += bytes;
    }
    if (model_run_packed(given, answer) != MODEL_OK)
        fail(EXIT_INTERNAL, "a kernel failed", DAMAGED);
}

Tensors run_session(const Bundle *bundle, const Sample *sample) {
    Tensors made = {take(times(bundle->output_count, sizeof(Tensor))), bundle->output_count};
    const unsigned char *at = answer;
    run_again(bundle, sample);
    for (size_t i = 0; i < made.count; i++) {
        const Spec *spec = bundle->outputs + i;
        made.items[i] = tensor(spec->name, spec->type, spec->shape, spec->rank);
        memcpy(made.items[i].values, at, bytes_of(spec));
        at += bytes_of(spec);
    }
    return made;
}
