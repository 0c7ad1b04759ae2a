// Runs a compressed model from C++, with nothing of Python in the process.
//
//     g++ -std=c++17 run.cpp -I $ORT/include -L $ORT/lib -lonnxruntime -o run
//     ./run model.mcd.onnx "$(python -c 'import mcd_graph; print(mcd_graph.get_library_path())')" 1 < x.bin > y.bin
//
// ORT is an unpacked release of onnxruntime (1.14 or later). The model has one float32 input (rows, k) and its first output is
// float32; x.bin holds the input's numbers, y.bin will hold the output's.

#include <onnxruntime_c_api.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

namespace {

const OrtApi *api = nullptr;

void check(OrtStatus *status) {
    if (status == nullptr) return;
    std::fprintf(stderr, "run: %s\n", api->GetErrorMessage(status));
    api->ReleaseStatus(status);
    std::exit(1);
}

// Owns what onnxruntime has made: `release` is called on it in the end.
template <class T, void (*OrtApi::*release)(T *)>
struct Release {
    void operator()(T *object) const { (api->*release)(object); }
};
template <class T, void (*OrtApi::*release)(T *)>
using Owned = std::unique_ptr<T, Release<T, release>>;

std::vector<float> read_all(std::FILE *file) {
    std::vector<float> values;
    float buffer[4096];
    for (std::size_t count; (count = std::fread(buffer, sizeof(float), std::size(buffer), file)) > 0;)
        values.insert(values.end(), buffer, buffer + count);
    return values;
}

}  // namespace

int main(int count, char **arguments) {
    if (count != 4) {
        std::fprintf(stderr, "usage: run MODEL LIBRARY ROWS < x.bin > y.bin\n");
        return 2;
    }
    const std::int64_t rows = std::atoll(arguments[3]);
    std::vector<float> x = read_all(stdin);
    if (rows < 1 || x.empty() || x.size() % rows != 0) {
        std::fprintf(stderr, "run: %zu numbers are not %s rows\n", x.size(), arguments[3]);
        return 2;
    }
    api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (api == nullptr) {
        std::fprintf(stderr, "run: the installed onnxruntime is older than its header\n");
        return 1;
    }

    OrtEnv *env = nullptr;
    check(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "run", &env));
    Owned<OrtEnv, &OrtApi::ReleaseEnv> env_owner(env);
    OrtSessionOptions *options = nullptr;
    check(api->CreateSessionOptions(&options));
    Owned<OrtSessionOptions, &OrtApi::ReleaseSessionOptions> options_owner(options);

    // The one line that a compressed model needs.
    check(api->RegisterCustomOpsLibrary_V2(options, arguments[2]));

    OrtSession *session = nullptr;
    check(api->CreateSession(env, arguments[1], options, &session));
    Owned<OrtSession, &OrtApi::ReleaseSession> session_owner(session);

    OrtAllocator *allocator = nullptr;
    check(api->GetAllocatorWithDefaultOptions(&allocator));
    char *input_name = nullptr, *output_name = nullptr;
    check(api->SessionGetInputName(session, 0, allocator, &input_name));
    check(api->SessionGetOutputName(session, 0, allocator, &output_name));

    OrtMemoryInfo *memory = nullptr;
    check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    Owned<OrtMemoryInfo, &OrtApi::ReleaseMemoryInfo> memory_owner(memory);
    const std::int64_t shape[] = {rows, static_cast<std::int64_t>(x.size()) / rows};
    OrtValue *input = nullptr;
    check(api->CreateTensorWithDataAsOrtValue(memory, x.data(), x.size() * sizeof(float), shape, 2,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input));
    Owned<OrtValue, &OrtApi::ReleaseValue> input_owner(input);

    OrtValue *output = nullptr;
    check(api->Run(session, nullptr, &input_name, &input, 1, &output_name, 1, &output));
    Owned<OrtValue, &OrtApi::ReleaseValue> output_owner(output);
    check(api->AllocatorFree(allocator, input_name));
    check(api->AllocatorFree(allocator, output_name));

    OrtTensorTypeAndShapeInfo *info = nullptr;
    check(api->GetTensorTypeAndShape(output, &info));
    Owned<OrtTensorTypeAndShapeInfo, &OrtApi::ReleaseTensorTypeAndShapeInfo> info_owner(info);
    std::size_t values = 0;
    check(api->GetTensorShapeElementCount(info, &values));
    void *y = nullptr;
    check(api->GetTensorMutableData(output, &y));
    return std::fwrite(y, sizeof(float), values, stdout) == values ? 0 : 1;
}
