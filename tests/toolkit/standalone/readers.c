/* Gives files, or bundles, to one of the runner's readers, each in a process of its own, and prints how each process ended. */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner.h"

static void read_one(const char *kind, Bytes content) {
    const Spec spec = {.name = "x", .type = FLOAT32, .rank = 4, .shape = {1, 3, 6, 5}};
    size_t count;
    if (!strcmp(kind, "npy")) {
        parse_npy(content, "file");
    } else if (!strcmp(kind, "npz")) {
        Entry *entries = parse_zip(content, "file", &count);
        for (size_t i = 0; i < count; i++)
            parse_npy(entries[i].content, entries[i].name);
    } else if (!strcmp(kind, "wav")) {
        parse_sound(content, "file");
    } else if (!strcmp(kind, "png")) {
        prepared(parse_png(content, "file", false), "file", &spec, "crop=center,mean=1/2/3,std=4");
    } else if (!parse_json(content)) {
        fail(EXIT_INVALID, "%s", "%s", "it is no JSON", "next");
    }
}

/* A folder: everything that is read of a bundle before its model is. */
static void read_bundle(const char *folder) {
    size_t count;
    Bundle bundle = open_bundle(folder);
    Golden *golden = read_golden(&bundle, &count);
    for (size_t i = 0; i < count; i++)
        golden_sample(golden + i, &bundle);
    check_preprocessing(bundle.inputs, bundle.preprocessing);
}

static void show_hash(const char *path) {
    char hex[65];
    FILE *file = fopen(path, "rb");
    if (!file || !sha256(file, hex))
        exit(EXIT_INVALID);
    fclose(file);
    dprintf(STDOUT_FILENO, "%s ", hex);
}

int main(int count, char **words) {
    for (int i = 2; i < count; i++) {
        int status = 0;
        pid_t child = fork();
        if (!child) {
            if (!strcmp(words[1], "bundle"))
                read_bundle(words[i]);
            else if (!strcmp(words[1], "sha256"))
                show_hash(words[i]);
            else
                read_one(words[1], read_file(words[i], words[i], "next"));
            exit(EXIT_OK);
        }
        waitpid(child, &status, 0);
        dprintf(STDOUT_FILENO, "%d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
    }
    return EXIT_OK;
}
