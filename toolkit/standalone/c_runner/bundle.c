/* A bundle, opened after every file was held against its hash. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "runner.h"

const char GRAPH[] = "model.onnx";
static const char MANIFEST[] = "manifest.json", SCHEMA[] = "toolkit.bundle/1",
                  AGAIN[] = "copy the bundle again, or compile again";
static const char TRUSTED[] = "run/"; /* what runs does not check itself */
static const char *const UNLISTED[] = {"manifest.json", "manifest.sig", "timings.json"};

static _Noreturn void damaged(const char *folder, const char *why) {
    fail(EXIT_INVALID, "%s/%s is damaged: %s", "copy the bundle again", folder, MANIFEST, why);
}

/* ---- hashes, as toolkit/bundle/hashes.py holds them */

static bool leaves(const char *name) {
    if (*name == '/')
        return true;
    for (const char *part = name; part; part = strchr(part, '/')) {
        part += *part == '/';
        if (!strncmp(part, "..", 2) && (part[2] == '/' || !part[2]))
            return true;
    }
    return false;
}

static void check_file(const char *folder, const char *name, const char *want) {
    char have[65];
    const char *path = text("%s/%s", folder, name);
    if (leaves(name))
        fail(EXIT_INVALID, "the manifest names a file outside the bundle: %s", "do not use this bundle", name);
    if (!is_file(path))
        fail(EXIT_INVALID, "%s is missing", "%s", path, AGAIN);
    FILE *file = fopen(path, "rb");
    if (!file || !sha256(file, have))
        fail(EXIT_INVALID, "cannot read %s: %s", "%s", path, strerror(errno), AGAIN);
    fclose(file);
    if (!want || strcmp(have, want))
        fail(EXIT_INVALID, "%s is not the file that was written: its hash differs", "%s", path, AGAIN);
}

static bool unlisted(const char *name) {
    for (size_t i = 0; i < sizeof UNLISTED / sizeof *UNLISTED; i++)
        if (!strcmp(last_part(name), UNLISTED[i]))
            return true;
    return false;
}

static void check_hashes(const char *folder, const Json *hashes, const char *artefact) {
    const char *needed[] = {artefact, GRAPH, "golden.npz"};
    size_t count;
    for (const Json *each = hashes->first; each; each = each->next)
        if (strncmp(each->name, TRUSTED, strlen(TRUSTED)))
            check_file(folder, each->name, each->kind == JSON_STRING ? each->string : NULL);
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!member(hashes, needed[i]))
            fail(EXIT_INVALID, "the manifest holds no hash of %s", "do not use this bundle; compile again", needed[i]);
    char **names = files_below(folder, &count);
    for (size_t i = 0; i < count; i++)
        if (!unlisted(names[i]) && !member(hashes, names[i]))
            fail(EXIT_INVALID, "%s/%s was not written by the compile", "remove it, or compile again", folder, names[i]);
}

/* ---- signature */

static void read_dimension(const char *folder, const Json *dim, Spec *spec) {
    if (spec->rank == MOST_AXES)
        damaged(folder, "signature");
    if (dim->kind == JSON_STRING)
        spec->symbol[spec->rank] = dim->string;
    else if (dim->kind != JSON_NUMBER || dim->number < 0 || dim->number > 1e12 ||
             dim->number != (double)(int64_t)dim->number)
        damaged(folder, "signature");
    spec->shape[spec->rank++] = dim->kind == JSON_STRING ? -1 : (int64_t)dim->number;
}

static Spec *read_specs(const char *folder, const Json *list, size_t *count) {
    if (!list || list->kind != JSON_ARRAY || !list->first)
        damaged(folder, "signature");
    *count = 0;
    for (const Json *each = list->first; each; each = each->next)
        ++*count;
    Spec *specs = take(times(*count, sizeof *specs)), *spec = specs;
    for (const Json *each = list->first; each; each = each->next, spec++) {
        const Json *shape = member(each, "shape");
        spec->name = member_string(each, "name");
        if (!spec->name || !type_named(member_string(each, "dtype"), &spec->type) || !shape ||
            shape->kind != JSON_ARRAY)
            damaged(folder, "signature");
        for (const Json *dim = shape->first; dim; dim = dim->next)
            read_dimension(folder, dim, spec);
    }
    return specs;
}

static char *spelled_dims(const Spec *spec) {
    char *made = "[";
    for (size_t i = 0; i < spec->rank; i++)
        made = spec->symbol[i] ? text("%s%s%s", made, i ? ", " : "", spec->symbol[i])
                               : text("%s%s%lld", made, i ? ", " : "", (long long)spec->shape[i]);
    return text("%s]", made);
}

char *spelled_spec(const Spec *spec) {
    return text("%s: %s%s", spec->name, TYPE_NAMES[spec->type], spelled_dims(spec));
}

char *misfit(const Spec *spec, const Tensor *given) {
    bool fits = given->rank == spec->rank;
    if (given->type != spec->type)
        return text("%s wants %s, got %s", spec->name, TYPE_NAMES[spec->type], TYPE_NAMES[given->type]);
    for (size_t i = 0; fits && i < spec->rank; i++)
        fits = spec->symbol[i] || spec->shape[i] == given->shape[i];
    return fits ? NULL
                : text("%s wants shape %s, got %s", spec->name, spelled_dims(spec),
                       spelled_shape(given->shape, given->rank));
}

/* ---- the bundle */

static const Json *read_manifest(const char *folder) {
    const char *path = text("%s/%s", folder, MANIFEST);
    if (access(path, R_OK))
        fail(EXIT_INVALID, "%s is not a bundle: no %s",
             "leave this program in the folder run/ of its bundle, or name the bundle with --bundle", folder, MANIFEST);
    const Json *manifest = parse_json(read_file(path, path, AGAIN));
    if (!manifest)
        fail(EXIT_INVALID, "%s is damaged", "copy the bundle again", path);
    const char *schema = member_string(manifest, "schema");
    if (!schema || strcmp(schema, SCHEMA))
        fail(EXIT_INVALID, "%s is a bundle of another version", "compile it again, with --standalone", folder);
    return manifest;
}

static const char *wanted(const char *folder, const Json *object, const char *name) {
    const char *found = member_string(object, name);
    if (!found)
        damaged(folder, name);
    return found;
}

Bundle open_bundle(const char *folder) {
    const Json *manifest = read_manifest(folder), *hashes = member(manifest, "sha256");
    const char *artefact = wanted(folder, member(manifest, "artifact"), "file");
    if (!hashes || hashes->kind != JSON_OBJECT)
        damaged(folder, "sha256");
    check_hashes(folder, hashes, artefact);
    Bundle bundle = {
        .folder = folder,
        .name = wanted(folder, manifest, "name"),
        .target = wanted(folder, manifest, "target"),
        .stack = wanted(folder, manifest, "stack"),
        .artefact = artefact,
        .graph_sha256 = member_string(hashes, GRAPH),
        .preprocessing = wanted(folder, member(manifest, "model"), "preprocessing"),
    };
    const Json *signature = member(manifest, "signature");
    bundle.inputs = read_specs(folder, member(signature, "inputs"), &bundle.input_count);
    bundle.outputs = read_specs(folder, member(signature, "outputs"), &bundle.output_count);
    return bundle;
}
