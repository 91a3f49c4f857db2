#include "support.h"

enum { ALIGNMENT = 64 };

static unsigned char *scratch_next;
static size_t scratch_left;

void model_scratch(unsigned char *base, size_t bytes) {
  scratch_next = base;
  scratch_left = bytes;
}

void *TVMBackendAllocWorkspace(int device_type, int device_id, uint64_t bytes, int type_code, int type_bits) {
  uint64_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  unsigned char *given = scratch_next;
  (void)device_type, (void)device_id, (void)type_code, (void)type_bits;
  if (rounded > scratch_left)
    return NULL;
  scratch_next += rounded;
  scratch_left -= (size_t)rounded;
  return given;
}

/* Kernels free in the reverse order of allocation. */
int TVMBackendFreeWorkspace(int device_type, int device_id, void *pointer) {
  (void)device_type, (void)device_id;
  scratch_left += (size_t)(scratch_next - (unsigned char *)pointer);
  scratch_next = pointer;
  return 0;
}

int TVMBackendParallelLaunch(FTVMParallelLambda body, void *data, int num_task) {
  TVMParallelGroupEnv alone = {NULL, 1};
  (void)num_task;
  return body(0, &alone, data);
}

int TVMBackendParallelBarrier(int task_id, TVMParallelGroupEnv *env) {
  (void)task_id, (void)env;
  return 0;
}

/* Machine code from LLVM calls through these pointers; C code calls the functions by name. */
extern void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int);
extern int (*__TVMBackendFreeWorkspace)(int, int, void *);
extern int (*__TVMBackendParallelLaunch)(FTVMParallelLambda, void *, int);
extern int (*__TVMBackendParallelBarrier)(int, TVMParallelGroupEnv *);
void *(*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = TVMBackendAllocWorkspace;
int (*__TVMBackendFreeWorkspace)(int, int, void *) = TVMBackendFreeWorkspace;
int (*__TVMBackendParallelLaunch)(FTVMParallelLambda, void *, int) = TVMBackendParallelLaunch;
int (*__TVMBackendParallelBarrier)(int, TVMParallelGroupEnv *) = TVMBackendParallelBarrier;
