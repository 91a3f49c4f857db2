/* The C interface of onnxruntime, as far as the runner uses it.

   OrtApi is a table of function pointers to which releases only append: the places below are those of version 1, which
   "cannot change" (static_assert on ReleaseCustomOpDomain, 101, in onnxruntime/core/session/onnxruntime_c_api.cc).
   Source of order and types: onnxruntime, include/onnxruntime/core/session/onnxruntime_c_api.h. */
#ifndef ONNXRUNTIME_API_H
#define ONNXRUNTIME_API_H

#include <stddef.h>
#include <stdint.h>

enum { ORT_API_VERSION = 1, ORT_LOG_FATAL = 4, ORT_OPTIMIZE_ALL = 99, ORT_ARENA_ALLOCATOR = 1, ORT_MEMORY_DEFAULT = 0 };

/* OrtErrorCode: those that blame the model or its inputs. */
enum { ORT_INVALID_ARGUMENT = 2, ORT_NO_FILE = 3, ORT_NO_MODEL = 4, ORT_INVALID_PROTOBUF = 7, ORT_INVALID_GRAPH = 10 };

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtValue OrtValue;
typedef struct OrtShapeInfo OrtShapeInfo; /* OrtTensorTypeAndShapeInfo */
typedef struct OrtAllocator OrtAllocator;

typedef void (*OrtSlot)(void);
typedef struct { OrtSlot slot[102]; } OrtApi;
typedef struct { const OrtApi *(*GetApi)(uint32_t version); const char *(*GetVersionString)(void); } OrtApiBase;
typedef const OrtApiBase *(*OrtGetApiBaseType)(void);

/* ORT(api, Name)(arguments): a call through the place of that name. */
#define ORT(api, name) ((Ort##name)(api)->slot[ORT_##name])
#define ORT_DECLARE(place, name, result, ...) \
    enum { ORT_##name = place };              \
    typedef result (*Ort##name)(__VA_ARGS__);

ORT_DECLARE(1, GetErrorCode, int, const OrtStatus *)
ORT_DECLARE(2, GetErrorMessage, const char *, const OrtStatus *)
ORT_DECLARE(3, CreateEnv, OrtStatus *, int severity, const char *name, OrtEnv **)
ORT_DECLARE(7, CreateSession, OrtStatus *, const OrtEnv *, const char *path, const OrtSessionOptions *, OrtSession **)
ORT_DECLARE(9, Run, OrtStatus *, OrtSession *, const OrtRunOptions *, const char *const *input_names,
            const OrtValue *const *inputs, size_t, const char *const *output_names, size_t, OrtValue **outputs)
ORT_DECLARE(10, CreateSessionOptions, OrtStatus *, OrtSessionOptions **)
ORT_DECLARE(22, SetSessionLogSeverityLevel, OrtStatus *, OrtSessionOptions *, int)
ORT_DECLARE(23, SetSessionGraphOptimizationLevel, OrtStatus *, OrtSessionOptions *, int)
ORT_DECLARE(24, SetIntraOpNumThreads, OrtStatus *, OrtSessionOptions *, int)
ORT_DECLARE(25, SetInterOpNumThreads, OrtStatus *, OrtSessionOptions *, int)
ORT_DECLARE(30, SessionGetInputCount, OrtStatus *, const OrtSession *, size_t *)
ORT_DECLARE(31, SessionGetOutputCount, OrtStatus *, const OrtSession *, size_t *)
ORT_DECLARE(36, SessionGetInputName, OrtStatus *, const OrtSession *, size_t, OrtAllocator *, char **)
ORT_DECLARE(37, SessionGetOutputName, OrtStatus *, const OrtSession *, size_t, OrtAllocator *, char **)
ORT_DECLARE(49, CreateTensorWithDataAsOrtValue, OrtStatus *, const OrtMemoryInfo *, void *, size_t bytes,
            const int64_t *shape, size_t rank, int type, OrtValue **)
ORT_DECLARE(50, IsTensor, OrtStatus *, const OrtValue *, int *)
ORT_DECLARE(51, GetTensorMutableData, OrtStatus *, OrtValue *, void **)
ORT_DECLARE(60, GetTensorElementType, OrtStatus *, const OrtShapeInfo *, int *)
ORT_DECLARE(61, GetDimensionsCount, OrtStatus *, const OrtShapeInfo *, size_t *)
ORT_DECLARE(62, GetDimensions, OrtStatus *, const OrtShapeInfo *, int64_t *, size_t)
ORT_DECLARE(65, GetTensorTypeAndShape, OrtStatus *, const OrtValue *, OrtShapeInfo **)
ORT_DECLARE(69, CreateCpuMemoryInfo, OrtStatus *, int allocator, int memory, OrtMemoryInfo **)
ORT_DECLARE(78, GetAllocatorWithDefaultOptions, OrtStatus *, OrtAllocator **)
ORT_DECLARE(93, ReleaseStatus, void, OrtStatus *)
ORT_DECLARE(96, ReleaseValue, void, OrtValue *)
ORT_DECLARE(99, ReleaseTensorTypeAndShapeInfo, void, OrtShapeInfo *)

#endif
