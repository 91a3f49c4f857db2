/* The model in onnxruntime, whose library lies beside this program. Telemetry is off before it is loaded. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "onnxruntime_api.h"
#include "runner.h"

static const char LIBRARY[] = "libonnxruntime.so";

/* ONNXTensorElementDataType of each Type. Source: onnx.proto, TensorProto.DataType. */
static const int ELEMENT[TYPES] = {
    [BOOL] = 9,    [INT8] = 3,  [UINT8] = 2,   [INT16] = 5,    [UINT16] = 4,  [INT32] = 6,
    [UINT32] = 12, [INT64] = 7, [UINT64] = 13, [FLOAT16] = 10, [FLOAT32] = 1, [FLOAT64] = 11,
};

static const OrtApi *api;
static const char *version;
static OrtSession *session;
static OrtMemoryInfo *memory;
static const char **input_names, **output_names;
static size_t output_count;

static void check(OrtStatus *status, const char *doing) {
    if (!status)
        return;
    int code = ORT(api, GetErrorCode)(status);
    bool input = code == ORT_INVALID_ARGUMENT || code == ORT_NO_FILE || code == ORT_NO_MODEL ||
                 code == ORT_INVALID_PROTOBUF || code == ORT_INVALID_GRAPH;
    const char *why = text("%.300s", ORT(api, GetErrorMessage)(status));
    ORT(api, ReleaseStatus)(status);
    if (input)
        fail(EXIT_INVALID, "onnxruntime, %s: %s", "compile the bundle again", doing, why);
    fail(EXIT_MISSING, "onnxruntime cannot run this, %s: %s",
         "compile the bundle for the onnxruntime that lies in run/", doing, why);
}

static const OrtApi *load_library(void) {
    const char *path = text("%s/%s", program_folder(), LIBRARY);
    OrtGetApiBaseType base;
    setenv("ORT_DISABLE_TELEMETRY", "1", 1);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    void *found = library ? dlsym(library, "OrtGetApiBase") : NULL;
    if (!found)
        fail(EXIT_MISSING, "cannot load onnxruntime: %s", "copy the folder run/ whole, and install libstdc++6",
             dlerror());
    memcpy(&base, &found, sizeof base); /* POSIX: a function's address fits a pointer */
    version = base()->GetVersionString();
    const OrtApi *table = base()->GetApi(ORT_API_VERSION);
    if (!table)
        fail(EXIT_MISSING, "%s is of another kind: version %s", "copy the folder run/ again", path, version);
    return table;
}

const char *runtime_name(void) {
    const char *dot = strchr(version, '.');
    dot = dot ? strchr(dot + 1, '.') : NULL;
    return text("onnxruntime %.*s", dot ? (int)(dot - version) : 20, version);
}

const char *file_run(const Bundle *bundle) {
    (void)bundle;
    return GRAPH;
}

/* ---- names */

typedef OrtStatus *(*Named)(const OrtSession *, size_t, OrtAllocator *, char **);

static const char **names(Named named, size_t count) {
    const char **made = take(times(count, sizeof *made));
    OrtAllocator *allocator;
    check(ORT(api, GetAllocatorWithDefaultOptions)(&allocator), "loading the model");
    for (size_t i = 0; i < count; i++) {
        char *name;
        check(named(session, i, allocator, &name), "loading the model");
        made[i] = name;
    }
    return made;
}

static void check_names(const Bundle *bundle) {
    size_t count, known = 0;
    check(ORT(api, SessionGetInputCount)(session, &count), "loading the model");
    const char **found = names(ORT(api, SessionGetInputName), count);
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < bundle->input_count; j++)
            known += !strcmp(found[i], bundle->inputs[j].name);
    if (known != count || count != bundle->input_count)
        fail(EXIT_INVALID, "%s/%s takes other inputs than the manifest says", "compile again", bundle->folder, GRAPH);
    input_names = take(times(count, sizeof *input_names));
    for (size_t j = 0; j < count; j++)
        input_names[j] = bundle->inputs[j].name;
}

void open_session(const Bundle *bundle, int threads) {
    static const char DOING[] = "loading the model";
    OrtEnv *environment;
    OrtSessionOptions *options;
    api = load_library();
    check(ORT(api, CreateEnv)(ORT_LOG_FATAL, "runner", &environment), DOING);
    check(ORT(api, CreateSessionOptions)(&options), DOING);
    check(ORT(api, SetSessionLogSeverityLevel)(options, ORT_LOG_FATAL), DOING);
    check(ORT(api, SetSessionGraphOptimizationLevel)(options, ORT_OPTIMIZE_ALL), DOING);
    check(ORT(api, SetIntraOpNumThreads)(options, threads), DOING);
    check(ORT(api, SetInterOpNumThreads)(options, 1), DOING);
    check(ORT(api, CreateSession)(environment, text("%s/%s", bundle->folder, GRAPH), options, &session), DOING);
    check(ORT(api, CreateCpuMemoryInfo)(ORT_ARENA_ALLOCATOR, ORT_MEMORY_DEFAULT, &memory), DOING);
    check_names(bundle);
    check(ORT(api, SessionGetOutputCount)(session, &output_count), DOING);
    output_names = names(ORT(api, SessionGetOutputName), output_count);
}

/* ---- runs */

static OrtValue **run(const Bundle *bundle, const Sample *sample) {
    static OrtValue **inputs, **outputs;
    if (!inputs) {
        inputs = take(times(bundle->input_count, sizeof *inputs));
        outputs = take(times(output_count, sizeof *outputs));
    }
    for (size_t i = 0; i < bundle->input_count; i++) {
        const Tensor *given = sample->inputs + i;
        check(ORT(api, CreateTensorWithDataAsOrtValue)(memory, given->values, given->count * TYPE_BYTES[given->type],
                                                       given->shape, given->rank, ELEMENT[given->type], inputs + i),
              "running the model");
    }
    memset(outputs, 0, output_count * sizeof *outputs);
    check(ORT(api, Run)(session, NULL, input_names, (const OrtValue *const *)inputs, bundle->input_count, output_names,
                        output_count, outputs),
          "running the model");
    for (size_t i = 0; i < bundle->input_count; i++)
        ORT(api, ReleaseValue)(inputs[i]);
    return outputs;
}

/* Type and shape of an answer, with a copy of its values. */
static Tensor kept(OrtValue *value, const char *name) {
    static const char DOING[] = "reading the answer";
    OrtShapeInfo *info;
    void *values;
    int64_t shape[MOST_AXES];
    int is_tensor = 0, element = 0, type = 0;
    size_t rank = 0;
    check(ORT(api, IsTensor)(value, &is_tensor), DOING);
    if (!is_tensor)
        fail(EXIT_MISSING, "the answer %s is no array", "let the model give arrays", name);
    check(ORT(api, GetTensorTypeAndShape)(value, &info), DOING);
    check(ORT(api, GetTensorElementType)(info, &element), DOING);
    check(ORT(api, GetDimensionsCount)(info, &rank), DOING);
    while (type < TYPES && ELEMENT[type] != element)
        type++;
    if (type == TYPES || rank > MOST_AXES)
        fail(EXIT_MISSING, "the answer %s is of a type that this runner does not know", "let the model give numbers",
             name);
    check(ORT(api, GetDimensions)(info, shape, rank), DOING);
    ORT(api, ReleaseTensorTypeAndShapeInfo)(info);
    Tensor made = tensor(name, (Type)type, shape, rank);
    check(ORT(api, GetTensorMutableData)(value, &values), DOING);
    if (made.count)
        memcpy(made.values, values, made.count * TYPE_BYTES[type]);
    return made;
}

Tensors run_session(const Bundle *bundle, const Sample *sample) {
    OrtValue **values = run(bundle, sample);
    Tensors answer = {take(times(output_count, sizeof(Tensor))), output_count};
    for (size_t i = 0; i < output_count; i++) {
        answer.items[i] = kept(values[i], output_names[i]);
        ORT(api, ReleaseValue)(values[i]);
    }
    return answer;
}

void run_again(const Bundle *bundle, const Sample *sample) {
    OrtValue **values = run(bundle, sample);
    for (size_t i = 0; i < output_count; i++)
        ORT(api, ReleaseValue)(values[i]);
}
