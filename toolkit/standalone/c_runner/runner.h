/* The runner: a bundle's answers to a file, its golden samples, or its latency. What its files share, file by file.

   The program ends at the first thing that it cannot read, so nothing is handed back up: `fail` prints a line and a
   hint and exits, and memory is the process's until then. */
#ifndef RUNNER_H
#define RUNNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* ---- failing.c */

enum { EXIT_OK = 0, EXIT_NEGATIVE = 1, EXIT_USAGE = 2, EXIT_MISSING = 3, EXIT_INVALID = 5, EXIT_INTERNAL = 70 };

extern bool as_json; /* one JSON document on standard output, of failures too */

/* `problem` and `hint` are formats; the arguments are those of the problem, then those of the hint. */
_Noreturn void fail(int code, const char *problem, const char *hint, ...);

/* ---- memory.c */

void *take(size_t bytes);                     /* zeroed; fails with exit 5 where there is not so much */
size_t times(size_t a, size_t b);             /* a * b, or more than can ever be taken */
char *text(const char *format, ...);          /* a formatted string of its own */
char *copied(const char *bytes, size_t size); /* with a zero behind it */

/* ---- files.c */

typedef struct {
    const uint8_t *bytes;
    size_t size;
} Bytes;

Bytes read_file(const char *path, const char *name, const char *hint); /* `name` is what messages call it */
bool is_file(const char *path);
char **files_below(const char *folder, size_t *count); /* relative, sorted */
char *absolute(const char *path);                      /* without links; NULL where there is nothing */
const char *last_part(const char *path);               /* of a path */
const char *program_folder(void);                      /* where this program lies */

/* ---- json.c */

typedef enum { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonKind;

typedef struct Json {
    JsonKind kind;
    double number;
    const char *string; /* UTF-8, of a JSON_STRING */
    const char *name;   /* in the object around it */
    struct Json *first; /* of an array or object */
    struct Json *next;
} Json;

const Json *parse_json(Bytes content);                           /* NULL where it is not strict JSON */
const Json *member(const Json *object, const char *name);        /* NULL where there is none */
const char *member_string(const Json *object, const char *name); /* likewise */

/* ---- showing.c */

size_t utf8_bytes(const uint8_t *at, const uint8_t *end); /* of the character there; 0 where there is none */
char *printable(char *string); /* in place: control characters and what is no UTF-8 replaced */
void show_json_string(FILE *out, const char *string);
void show_json_number(FILE *out, double value, bool whole); /* null where it is not finite */

/* ---- sha256.c */

bool sha256(FILE *file, char hex[65]); /* of what is left of it; false where it cannot be read */

/* ---- tensor.c */

typedef enum { BOOL, INT8, UINT8, INT16, UINT16, INT32, UINT32, INT64, UINT64, FLOAT16, FLOAT32, FLOAT64, TYPES } Type;

enum { MOST_AXES = 32 };

typedef struct {
    const char *name;
    Type type;
    size_t rank, count; /* count: of elements */
    int64_t shape[MOST_AXES];
    void *values;
} Tensor;

typedef struct {
    Tensor *items;
    size_t count;
} Tensors;

extern const char *const TYPE_NAMES[TYPES]; /* numpy's */
extern const size_t TYPE_BYTES[TYPES];
bool type_named(const char *name, Type *type);
bool is_float(Type type);
Tensor tensor(const char *name, Type type, const int64_t *shape, size_t rank); /* zeros */
double value_at(const Tensor *tensor, size_t index);
void set_value(Tensor *tensor, size_t index, double value); /* in range of its type */
char *spelled_shape(const int64_t *shape, size_t rank);     /* [1, 3] */

/* ---- bundle.c */

typedef struct {
    const char *name;
    Type type;
    size_t rank;
    int64_t shape[MOST_AXES];      /* -1 where it varies */
    const char *symbol[MOST_AXES]; /* what varies */
} Spec;

typedef struct {
    const char *folder, *name, *target, *stack, *preprocessing;
    const char *artefact, *graph_sha256; /* what the device runs; the hash of the graph that it was made of */
    Spec *inputs, *outputs;
    size_t input_count, output_count;
} Bundle;

extern const char GRAPH[]; /* model.onnx */
Bundle open_bundle(const char *folder);
char *spelled_spec(const Spec *spec);                /* x: float32[1, 3] */
char *misfit(const Spec *spec, const Tensor *given); /* why it does not fit, or NULL */

/* ---- samples.c */

typedef struct {
    Tensor *inputs; /* one for each of the bundle's, in their order */
} Sample;

typedef struct {
    size_t count;
    bool images;
    Sample *samples;
} Samples;

Samples read_samples(const char *path, const Bundle *bundle, const char *preprocess);

/* ---- npy.c, zip.c, inflate.c, sound.c, png.c, framing.c: `name` is what messages call the file */

Tensor parse_npy(Bytes content, const char *name);

typedef struct {
    const char *name;
    Bytes content;
} Entry;

Entry *parse_zip(Bytes content, const char *name, size_t *count); /* stored or deflated */
uint32_t crc32(Bytes content);
bool inflate(Bytes compressed, uint8_t *out, size_t size, size_t *used); /* raw deflate of exactly `size` bytes */
Tensor parse_sound(Bytes content, const char *name);                     /* (n,) float32 in [-1, 1) */

typedef struct {
    size_t width, height, channels; /* 1: gray, 3: red, green, blue */
    uint8_t *pixels;
} Image;

Image parse_png(Bytes content, const char *name, bool gray);
Tensor prepared(Image image, const char *name, const Spec *spec, const char *how);
void check_preprocessing(const Spec *spec, const char *how); /* before any image is read */

/* ---- session.c, or linked/session.c: two ways to run the model, of which a runner has one */

void open_session(const Bundle *bundle, int threads);
const char *runtime_name(void);                 /* with its version; after open_session */
const char *file_run(const Bundle *bundle);     /* which of the bundle's files it runs */
Tensors run_session(const Bundle *bundle, const Sample *sample);
void run_again(const Bundle *bundle, const Sample *sample); /* answers are dropped: for timing */

/* ---- answers.c, golden.c, judging.c, bench.c: exit codes */

int answer_samples(const Bundle *bundle, const Samples *samples);
int self_test(const Bundle *bundle);
int bench(const Bundle *bundle, int runs, int threads);

typedef struct {
    Tensors inputs, outputs, reference;
} Golden;

Golden *read_golden(const Bundle *bundle, size_t *count);
Sample golden_sample(const Golden *golden, const Bundle *bundle); /* its inputs, held against the signature */

#endif
