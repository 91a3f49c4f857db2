/* A plugin of QEMU's user mode that counts the instructions a program executes, by kind where they are A64.

   It tells the counts when the process ends, and before that at each system call of number N where it is given `mark=N`.

   QEMU ships no header of its own in Debian; these declarations are version 1 of its plugin interface. */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdint.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t {
  const char *target_name;
  struct { int min; int cur; } version;
  bool system_emulation;
  union { struct { int smp_vcpus; int max_vcpus; } system; };
} qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translated_t)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*executed_t)(unsigned int, void *);
typedef void (*finished_t)(qemu_plugin_id_t, void *);
typedef void (*called_t)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                         uint64_t, uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_t);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int op, void *counter, uint64_t step);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, called_t);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, finished_t, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
void qemu_plugin_outs(const char *);

int qemu_plugin_version = 1;

enum { MEMORY, BRANCH, INTEGER, VECTOR, OTHER, KINDS };
static const char *const names[KINDS] = {"memory", "branch", "integer", "vector", "other"};
static uint64_t counts[KINDS];
static bool is_a64;
static int64_t mark = -1;

/* The top level of the A64 encoding: bits 28 to 25. */
static int kind_of(uint32_t word) {
  unsigned group = word >> 25 & 15;
  if (!is_a64)
    return OTHER;
  if ((group & 5) == 4)
    return MEMORY;
  if ((group & 14) == 10)
    return BRANCH;
  if ((group & 7) == 7)
    return VECTOR;
  if ((group & 14) == 8 || (group & 7) == 5)
    return INTEGER;
  return OTHER;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  uint64_t found[KINDS] = {0};
  size_t i;
  (void)id;
  for (i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
    uint32_t word = 0;
    if (is_a64)
      memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
    found[kind_of(word)]++;
  }
  for (i = 0; i < KINDS; i++)
    if (found[i])
      qemu_plugin_register_vcpu_tb_exec_inline(block, 0, &counts[i], found[i]);
}

static void finished(qemu_plugin_id_t id, void *data) {
  char line[64];
  int i;
  (void)id, (void)data;
  for (i = 0; i < KINDS; i++) {
    snprintf(line, sizeof line, "%s %" PRIu64 "\n", names[i], counts[i]);
    qemu_plugin_outs(line);
  }
}

static void called(qemu_plugin_id_t id, unsigned processor, int64_t number, uint64_t a, uint64_t b, uint64_t c,
                   uint64_t d, uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
  (void)processor, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number == mark)
    finished(id, NULL);
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int count, char **arguments) {
  if (count > 0 && sscanf(arguments[0], "mark=%" SCNd64, &mark) == 1)
    qemu_plugin_register_vcpu_syscall_cb(id, called);
  is_a64 = strcmp(info->target_name, "aarch64") == 0;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
