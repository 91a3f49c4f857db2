/* The network as a command: samples in on standard input, answers out on standard output, until the input ends. */
#include <stdio.h>
#include <string.h>

#include "model.h"

enum { OK = 0, USAGE = 2, INVALID_INPUT = 5, INTERNAL = 70 };

static unsigned char given[MODEL_INPUT_BYTES];
static unsigned char answer[MODEL_OUTPUT_BYTES];

static int help(FILE *to, const char *program, int status) {
  fprintf(to,
          "usage: %s < INPUT > OUTPUT\n"
          "  INPUT   samples of %lu bytes each: %s\n"
          "  OUTPUT  answers of %lu bytes each: %s\n",
          program, (unsigned long)sizeof given, MODEL_INPUTS, (unsigned long)sizeof answer, MODEL_OUTPUTS);
  return status;
}

int main(int count, char **arguments) {
  unsigned long samples = 0;
  size_t got;
  if (count == 2 && strcmp(arguments[1], "--help") == 0)
    return help(stdout, arguments[0], OK);
  if (count != 1)
    return help(stderr, arguments[0], USAGE);
  if (!model_weights_intact()) {
    fprintf(stderr, "error: the weights in this file are damaged\n");
    return INVALID_INPUT;
  }
  while ((got = fread(given, 1, sizeof given, stdin)) == sizeof given) {
    if (model_run_packed(given, answer) != MODEL_OK) {
      fprintf(stderr, "error: a kernel failed\n");
      return INTERNAL;
    }
    if (fwrite(answer, 1, sizeof answer, stdout) != sizeof answer) {
      fprintf(stderr, "error: the answer could not be written\n");
      return INVALID_INPUT;
    }
    samples++;
  }
  if (got != 0 || samples == 0) {
    fprintf(stderr, "error: sample %lu has %lu bytes, %lu are wanted (%s)\n", samples + 1, (unsigned long)got,
            (unsigned long)sizeof given, MODEL_INPUTS);
    return INVALID_INPUT;
  }
  if (fflush(stdout) != 0) {
    fprintf(stderr, "error: the answer could not be written\n");
    return INVALID_INPUT;
  }
  return OK;
}
