/* What TVM's kernels expect of a runtime: scratch memory, and parallel loops, which run here one after another. */
#ifndef MODEL_SUPPORT_H
#define MODEL_SUPPORT_H

#include <stddef.h>
#include <stdint.h>

#define TVM_DLL

typedef struct {
  void *sync_handle;
  int32_t num_task;
} TVMParallelGroupEnv;

typedef int (*FTVMParallelLambda)(int task_id, TVMParallelGroupEnv *env, void *data);

void *TVMBackendAllocWorkspace(int device_type, int device_id, uint64_t bytes, int type_code, int type_bits);
int TVMBackendFreeWorkspace(int device_type, int device_id, void *pointer);
int TVMBackendParallelLaunch(FTVMParallelLambda body, void *data, int num_task);
int TVMBackendParallelBarrier(int task_id, TVMParallelGroupEnv *env);

/* The memory that the kernel called next may ask for. */
void model_scratch(unsigned char *base, size_t bytes);

#endif
