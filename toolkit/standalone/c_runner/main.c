/* The program `runner`: a bundle's answers to a file, its golden samples, or its latency on this machine. */
#include <stdlib.h>
#include <string.h>

#include "runner.h"

static const char HELP[] =
    "usage: runner [-h] [--self-test] [--bench N] [--preprocess TEXT] [--threads N] [--bundle DIR] [--json] [INPUT]\n"
    "\n"
    "Run a compiled model on this machine. Every file is checked against its hash first.\n"
    "\n"
    "positional arguments:\n"
    "  INPUT              samples: .npy, .npz, .wav or .png\n"
    "\n"
    "options:\n"
    "  -h, --help         show this help message and exit\n"
    "  --self-test        golden samples: are the answers those recorded?\n"
    "  --bench N          time N inferences; prints a table for `toolkit calibrate`, to be kept beside the bundle's\n"
    "                     folder\n"
    "  --preprocess TEXT  how images become inputs; as in calibration by default. Nothing is resized here\n"
    "  --threads N        threads of one operator [1]\n"
    "  --bundle DIR       another bundle than the one around this program\n"
    "  --json             one JSON document on standard output\n"
    "\n"
    "exit codes: 0 ok, 1 other answers than were recorded, 2 usage, 3 onnxruntime's library is missing, 5 invalid\n"
    "input, 70 internal error\n";

typedef struct {
    const char *input, *preprocess, *bundle;
    bool self_test, bench;
    int runs, threads;
} Given;

static int counted(const char *option, const char *value) {
    char *end;
    long number = strtol(value, &end, 10);
    if (end == value || *end)
        fail(EXIT_USAGE, "argument %s: invalid int value: '%s'", "runner --help", option, value);
    if (number < 1 || number > 1000000000)
        fail(EXIT_USAGE, "--threads and --bench count from one", "runner --help");
    return (int)number;
}

/* The value of an option: behind an equals sign, or the next word. */
static const char *value_of(const char *option, const char *word, char ***next) {
    size_t size = strlen(option);
    if (word[size] == '=')
        return word + size + 1;
    if (!**next)
        fail(EXIT_USAGE, "argument %s: expected one argument", "runner --help", option);
    return *(*next)++;
}

static bool is_option(const char *word, const char *option) {
    size_t size = strlen(option);
    return !strncmp(word, option, size) && (!word[size] || word[size] == '=');
}

static void read_word(Given *given, char ***next) {
    const char *word = *(*next)++;
    if (!strcmp(word, "-h") || !strcmp(word, "--help")) {
        fputs(HELP, stdout);
        exit(EXIT_OK);
    } else if (!strcmp(word, "--self-test")) {
        given->self_test = true;
    } else if (!strcmp(word, "--json")) {
        as_json = true;
    } else if (is_option(word, "--bench")) {
        given->bench = true;
        given->runs = counted("--bench", value_of("--bench", word, next));
    } else if (is_option(word, "--threads")) {
        given->threads = counted("--threads", value_of("--threads", word, next));
    } else if (is_option(word, "--preprocess")) {
        given->preprocess = value_of("--preprocess", word, next);
    } else if (is_option(word, "--bundle")) {
        given->bundle = value_of("--bundle", word, next);
    } else if (*word == '-' || given->input) {
        fail(EXIT_USAGE, "unrecognized arguments: %s", "runner --help", word);
    } else {
        given->input = word;
    }
}

static const char *around(void) {
    char *path = absolute(text("%s/..", program_folder()));
    return path ? path : ".";
}

int main(int count, char **words) {
    Given given = {.threads = 1};
    if (count < 2) {
        fputs(HELP, stdout);
        return EXIT_OK;
    }
    for (int i = 1; i < count; i++)
        as_json = as_json || !strcmp(words[i], "--json");
    for (char **next = words + 1; *next;)
        read_word(&given, &next);
    if ((given.input != NULL) + given.self_test + given.bench != 1)
        fail(EXIT_USAGE, "give either an INPUT, --self-test or --bench N", "runner --help");
    Bundle bundle = open_bundle(given.bundle ? given.bundle : around());
    Samples samples = {0, false, NULL};
    if (given.input)
        samples = read_samples(given.input, &bundle, given.preprocess);
    open_session(&bundle, given.threads);
    int code = given.self_test ? self_test(&bundle)
               : given.bench   ? bench(&bundle, given.runs, given.threads)
                               : answer_samples(&bundle, &samples);
    if (fflush(stdout) || ferror(stdout))
        fail(EXIT_INVALID, "cannot write the answer", "free some space");
    return code;
}
