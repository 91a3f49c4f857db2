/* A program of many files as one: unpack the files behind this program's end, run the first of them, remove them.
 *
 * Behind the end come blocks, then a table, then the tail. The table has a line of fixed size for each block, in the
 * order of files, then the files' names, each ended by a zero. All integers are little endian, as this machine's are.
 */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lz4.h"

enum { MOST_THREADS = 4, INVALID_INPUT = 5, INTERNAL = 70 };
enum { PLAIN = 1 }; /* a block as it is: it did not become shorter */

typedef struct {
    uint64_t files, blocks;     /* how many */
    uint64_t table, size, sum;  /* where the table begins, its bytes, their lz4_sum */
    uint64_t expanded;          /* bytes of all files */
    char magic[8];
} Tail;

typedef struct {
    uint32_t mode, blocks; /* a link where the mode says so: its one block is where it leads */
} File;

typedef struct {
    uint64_t at, offset, sum; /* place in this program, place in its file, lz4_sum */
    uint32_t size, expanded, file, kind;
} Block;

static const char MAGIC[8] = "TOOLKIT1";
static const char *NAME = "TOOLKIT_RUNNER_FILE";

static const uint8_t *packed;
static const File *files;
static const Block *blocks;
static int *opened;
static Tail tail;
static _Atomic uint64_t next_block;
static _Atomic int damaged, unwritten; /* the latter an errno */
static char folder[PATH_MAX];
static volatile pid_t child;

static int remove_one(const char *path, const struct stat *known, int kind, struct FTW *where) {
    (void)known, (void)kind, (void)where;
    return remove(path);
}

static void clean_up(void) {
    if (folder[0])
        nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

__attribute__((noreturn, format(printf, 3, 4))) static void fail(int code, const char *hint, const char *problem, ...) {
    va_list values;
    va_start(values, problem);
    fputs("error: ", stderr);
    vfprintf(stderr, problem, values);
    va_end(values);
    fprintf(stderr, "\n  next: %s\n", hint);
    clean_up();
    exit(code);
}

/* The path of this program: as the kernel says, or, where there is no /proc, as it was started. */
static const char *own_path(void) {
    static char path[PATH_MAX];
    ssize_t size = readlink("/proc/self/exe", path, sizeof path - 1);
    if (size > 0) {
        path[size] = 0;
        return path;
    }
    const char *started = (const char *)getauxval(AT_EXECFN);
    return started && realpath(started, path) ? path : NULL;
}

static void map_program(const char *path) {
    struct stat known;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &known) || (size_t)known.st_size < sizeof tail)
        fail(INVALID_INPUT, "make it readable", "cannot read %s: %s", path, strerror(errno));
    uint64_t size = (uint64_t)known.st_size;
    packed = mmap(NULL, size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (packed == MAP_FAILED)
        fail(INTERNAL, "free some memory", "cannot read %s: %s", path, strerror(errno));
    memcpy(&tail, packed + size - sizeof tail, sizeof tail);
    if (memcmp(tail.magic, MAGIC, sizeof MAGIC) || tail.table > size || tail.size > size - tail.table ||
        lz4_sum(packed + tail.table, tail.size) != tail.sum)
        fail(INVALID_INPUT, "copy it again", "%s is damaged", path);
    blocks = (const Block *)(packed + tail.table);
    files = (const File *)(blocks + tail.blocks);
}

/* A folder of its own, of this user alone, where there may be one. */
static void make_folder(const char *path) {
    const char *chosen = getenv("TMPDIR"), *places[] = {chosen && chosen[0] ? chosen : "/tmp", "/tmp", "/var/tmp"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(folder, sizeof folder, "%.*s/runner-XXXXXX", PATH_MAX - 256, places[i]);
        if (mkdtemp(folder))
            return;
    }
    folder[0] = 0;
    fail(INVALID_INPUT, "set TMPDIR to a folder that you may write", "%s finds no folder to unpack itself in", path);
}

static void make_parents(char *path) {
    for (char *at = path + strlen(folder) + 1; (at = strchr(at, '/')); *at++ = '/') {
        *at = 0;
        mkdir(path, 0700);
    }
}

/* Every file, empty and open; links, which lead into the folder. */
static void make_files(void) {
    const char *name = (const char *)(files + tail.files);
    const Block *block = blocks;
    opened = malloc(tail.files * sizeof *opened);
    if (!opened)
        fail(INTERNAL, "free some memory", "out of memory");
    for (uint64_t i = 0; i < tail.files; i++, name += strlen(name) + 1) {
        char path[PATH_MAX + 256];
        snprintf(path, sizeof path, "%s/%s", folder, name);
        make_parents(path);
        opened[i] = -1;
        if (S_ISLNK(files[i].mode)) {
            char target[256] = "";
            if (block->size < sizeof target)
                memcpy(target, packed + block->at, block->size);
            if (symlink(target, path))
                unwritten = errno;
        } else if ((opened[i] = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, files[i].mode & 0777)) < 0) {
            unwritten = errno;
        }
        block += files[i].blocks;
    }
}

static void write_all(int file, const uint8_t *bytes, size_t size, off_t offset) {
    while (size) {
        ssize_t done = pwrite(file, bytes, size, offset);
        if (done < 0) {
            unwritten = errno;
            return;
        }
        bytes += done;
        size -= (size_t)done;
        offset += done;
    }
}

static void *unpack(void *room) {
    for (;;) {
        uint64_t number = next_block++;
        if (number >= tail.blocks || damaged || unwritten)
            return NULL;
        const Block *block = blocks + number;
        const uint8_t *bytes = packed + block->at;
        if (opened[block->file] < 0)
            continue;
        if (lz4_sum(bytes, block->size) != block->sum) {
            damaged = 1;
        } else if (block->kind == PLAIN) {
            write_all(opened[block->file], bytes, block->size, (off_t)block->offset);
        } else if (lz4_expand(bytes, block->size, room, LONGEST_BLOCK) != block->expanded) {
            damaged = 1;
        } else {
            write_all(opened[block->file], room, block->expanded, (off_t)block->offset);
        }
    }
}

static void unpack_all(const char *path) {
    pthread_t threads[MOST_THREADS];
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    int wanted = processors < MOST_THREADS ? (int)processors : MOST_THREADS, started = 0;
    uint8_t *room = malloc((size_t)(wanted > 0 ? wanted : 1) * LONGEST_BLOCK);
    if (!room)
        fail(INTERNAL, "free some memory", "out of memory");
    for (int i = 1; i < wanted; i++)
        if (!pthread_create(&threads[started], NULL, unpack, room + (size_t)i * LONGEST_BLOCK))
            started++;
    unpack(room);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    free(room);
    for (uint64_t i = 0; i < tail.files; i++)
        if (opened[i] >= 0 && close(opened[i]))
            unwritten = errno;
    if (damaged)
        fail(INVALID_INPUT, "copy it again", "%s is damaged", path);
    if (unwritten) {
        char hint[120];
        snprintf(hint, sizeof hint, "set TMPDIR to a folder with %llu MB of space",
                 (unsigned long long)(tail.expanded / 1000000 + 1));
        fail(INVALID_INPUT, hint, "cannot write %s: %s", folder, strerror(unwritten));
    }
}

/* What a terminal sends, the child has got itself. */
static void pass_on(int number, siginfo_t *from, void *context) {
    (void)context;
    if (child > 0 && from->si_code <= 0)
        kill(child, number);
}

/* Run the first file with this program's arguments; what its end was, as waitpid says. */
static int run(char **arguments) {
    char program[PATH_MAX + 256];
    snprintf(program, sizeof program, "%s/%s", folder, (const char *)(files + tail.files));
    struct sigaction passing = {.sa_sigaction = pass_on, .sa_flags = SA_SIGINFO};
    int passed[] = {SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2};
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before); /* none comes before there is a child to have it */
    child = fork();
    if (child == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        arguments[0] = program;
        execv(program, arguments);
        fprintf(stderr, "error: cannot run what was unpacked in %s: %s\n  next: set TMPDIR to a folder that may hold "
                        "programs\n", folder, strerror(errno));
        _exit(INVALID_INPUT);
    }
    for (size_t i = 0; i < sizeof passed / sizeof *passed; i++)
        sigaction(passed[i], &passing, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
    int ended = 0;
    if (child < 0)
        fail(INTERNAL, "free some memory", "cannot start: %s", strerror(errno));
    while (waitpid(child, &ended, 0) < 0 && errno == EINTR)
        ;
    return ended;
}

int main(int count, char **arguments) {
    (void)count;
    const char *path = own_path();
    if (!path)
        fail(INVALID_INPUT, "start it by its whole path", "this program does not find itself");
    map_program(path);
    make_folder(path);
    make_files();
    unpack_all(path);
    if (setenv(NAME, path, 1))
        fail(INTERNAL, "free some memory", "out of memory");
    int ended = run(arguments);
    clean_up();
    if (WIFSIGNALED(ended)) {
        signal(WTERMSIG(ended), SIG_DFL);
        raise(WTERMSIG(ended));
    }
    return WIFEXITED(ended) ? WEXITSTATUS(ended) : INTERNAL;
}
