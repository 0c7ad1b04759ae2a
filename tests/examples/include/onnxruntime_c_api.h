// Stands in for onnxruntime's header of the same name, which no package index carries, so that the C++ example can be compiled in
// tests. It declares just what the example calls. onnxruntime only ever appends to OrtApi, so places that were right for one
// version are right for all later ones; a test holds them to ort-sys, the Rust declarations that our operator is built with.

#pragma once

#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 14  // the first with RegisterCustomOpsLibrary_V2

#ifdef _WIN32
typedef wchar_t ORTCHAR_T;
#else
typedef char ORTCHAR_T;
#endif

struct OrtAllocator;
struct OrtEnv;
struct OrtMemoryInfo;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;

enum OrtLoggingLevel { ORT_LOGGING_LEVEL_WARNING = 2 };
enum OrtAllocatorType { OrtArenaAllocator = 1 };
enum OrtMemType { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1 };

typedef void (*OrtNotDeclared)();

struct OrtApi {
    OrtNotDeclared from_0[2];
    const char *(*GetErrorMessage)(const OrtStatus *status);
    OrtStatus *(*CreateEnv)(OrtLoggingLevel level, const char *id, OrtEnv **out);
    OrtNotDeclared from_4[3];
    OrtStatus *(*CreateSession)(const OrtEnv *env, const ORTCHAR_T *path, const OrtSessionOptions *options, OrtSession **out);
    OrtNotDeclared from_8[1];
    OrtStatus *(*Run)(OrtSession *session, const OrtRunOptions *options, const char *const *input_names,
                      const OrtValue *const *inputs, size_t input_count, const char *const *output_names,
                      size_t output_count, OrtValue **outputs);
    OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **out);
    OrtNotDeclared from_11[19];
    OrtStatus *(*SessionGetInputCount)(const OrtSession *session, size_t *out);
    OrtNotDeclared from_31[2];
    OrtStatus *(*SessionGetInputTypeInfo)(const OrtSession *session, size_t index, OrtTypeInfo **out);
    OrtNotDeclared from_34[2];
    OrtStatus *(*SessionGetInputName)(const OrtSession *session, size_t index, OrtAllocator *allocator, char **out);
    OrtStatus *(*SessionGetOutputName)(const OrtSession *session, size_t index, OrtAllocator *allocator, char **out);
    OrtNotDeclared from_38[11];
    OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *info, void *data, size_t bytes, const int64_t *shape,
                                                 size_t rank, ONNXTensorElementDataType type, OrtValue **out);
    OrtNotDeclared from_50[1];
    OrtStatus *(*GetTensorMutableData)(OrtValue *value, void **out);
    OrtNotDeclared from_52[3];
    OrtStatus *(*CastTypeInfoToTensorInfo)(const OrtTypeInfo *info, const OrtTensorTypeAndShapeInfo **out);
    OrtNotDeclared from_56[4];
    OrtStatus *(*GetTensorElementType)(const OrtTensorTypeAndShapeInfo *info, ONNXTensorElementDataType *out);
    OrtNotDeclared from_61[3];
    OrtStatus *(*GetTensorShapeElementCount)(const OrtTensorTypeAndShapeInfo *info, size_t *out);
    OrtStatus *(*GetTensorTypeAndShape)(const OrtValue *value, OrtTensorTypeAndShapeInfo **out);
    OrtNotDeclared from_66[3];
    OrtStatus *(*CreateCpuMemoryInfo)(OrtAllocatorType type, OrtMemType memory_type, OrtMemoryInfo **out);
    OrtNotDeclared from_70[6];
    OrtStatus *(*AllocatorFree)(OrtAllocator *allocator, void *block);
    OrtNotDeclared from_77[1];
    OrtStatus *(*GetAllocatorWithDefaultOptions)(OrtAllocator **out);
    OrtNotDeclared from_79[13];
    void (*ReleaseEnv)(OrtEnv *object);
    void (*ReleaseStatus)(OrtStatus *object);
    void (*ReleaseMemoryInfo)(OrtMemoryInfo *object);
    void (*ReleaseSession)(OrtSession *object);
    void (*ReleaseValue)(OrtValue *object);
    OrtNotDeclared from_97[1];
    void (*ReleaseTypeInfo)(OrtTypeInfo *object);
    void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo *object);
    void (*ReleaseSessionOptions)(OrtSessionOptions *object);
    OrtNotDeclared from_101[29];
    OrtStatus *(*AddSessionConfigEntry)(OrtSessionOptions *options, const char *key, const char *value);
    OrtNotDeclared from_131[97];
    OrtStatus *(*RegisterCustomOpsLibrary_V2)(OrtSessionOptions *options, const ORTCHAR_T *path);
};

struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)();
};

extern "C" const OrtApiBase *OrtGetApiBase();
