/* Whole files in memory, and what lies in a folder. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>

#include "runner.h"

bool is_file(const char *path) {
    struct stat facts;
    return stat(path, &facts) == 0 && S_ISREG(facts.st_mode);
}

char *absolute(const char *path) {
    char *found = realpath(path, NULL);
    char *copy = found ? copied(found, strlen(found)) : NULL;
    free(found);
    return copy;
}

const char *last_part(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

const char *program_folder(void) {
    const char *called = (const char *)getauxval(AT_EXECFN); /* as it was started; for where /proc is not mounted */
    char *path = absolute("/proc/self/exe");
    if (!path && called)
        path = absolute(called);
    char *slash = path ? strrchr(path, '/') : NULL;
    if (!slash)
        fail(EXIT_INTERNAL, "cannot find where this program lies", "see that /proc is mounted");
    *slash = 0;
    return path;
}

Bytes read_file(const char *path, const char *name, const char *hint) {
    struct stat facts;
    FILE *file = fopen(path, "rb");
    if (!file)
        fail(EXIT_INVALID, "cannot read %s: %s", "%s", name, strerror(errno), hint);
    if (fstat(fileno(file), &facts) || !S_ISREG(facts.st_mode))
        fail(EXIT_INVALID, "cannot read %s: it is no file", "%s", name, hint);
    size_t size = (size_t)facts.st_size;
    uint8_t *bytes = take(size);
    if (fread(bytes, 1, size, file) != size)
        fail(EXIT_INVALID, "cannot read %s: it changes while it is read", "%s", name, hint);
    fclose(file);
    return (Bytes){bytes, size};
}

/* ---- folders */

typedef struct {
    char **names;
    size_t count, room;
} Names;

static void keep(Names *found, char *name) {
    if (found->count == found->room) {
        size_t room = found->room ? 2 * found->room : 16;
        char **more = take(times(room, sizeof *more));
        if (found->count)
            memcpy(more, found->names, found->count * sizeof *more);
        found->names = more;
        found->room = room;
    }
    found->names[found->count++] = name;
}

static void walk(const char *folder, const char *below, Names *found) {
    DIR *open = opendir(text("%s/%s", folder, below));
    struct dirent *entry;
    while (open && (entry = readdir(open))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        struct stat facts;
        char *name = text("%s%s", below, entry->d_name), *path = text("%s/%s", folder, name);
        if (lstat(path, &facts) == 0 && S_ISDIR(facts.st_mode))
            walk(folder, text("%s/", name), found);
        else if (is_file(path))
            keep(found, name);
    }
    if (open)
        closedir(open);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

char **files_below(const char *folder, size_t *count) {
    Names found = {NULL, 0, 0};
    walk(folder, "", &found);
    if (found.count)
        qsort(found.names, found.count, sizeof *found.names, by_name);
    *count = found.count;
    return found.names;
}
