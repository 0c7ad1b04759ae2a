// Runs a compressed model from C++, with nothing of Python in the process.
//
//     g++ -std=c++17 run.cpp -I $ORT/include -L $ORT/lib -lonnxruntime -o run
//     library=$(python -c 'import mcd_graph; print(mcd_graph.get_library_path())')
//     ./run model.mcd.onnx "$library" ids=ids.bin:1,128 mask=mask.bin:1,128 > output.bin
//
// Before the inputs, session config entries such as mcd.residency=compressed may be given. On Windows, with Visual Studio or with MinGW: cl /std:c++17 /EHsc, or g++ as above, and mcd_ort.dll as the library.
//
// ORT is an unpacked release of onnxruntime (1.14 or later). Each input is NAME=FILE:SHAPE, a file of its elements in the machine's
// byte order, of whatever fixed-size type the model says; so is what comes out: the elements of the model's first output.

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#ifdef _WIN32
#include <fcntl.h>
#include <io.h>
#endif

namespace {

const OrtApi *api = nullptr;

[[noreturn]] void fail(int status, const std::string &what) {
    std::fprintf(stderr, "run: %s\n", what.c_str());
    std::exit(status);
}

void check(OrtStatus *status) {
    if (status == nullptr) return;
    const std::string what = api->GetErrorMessage(status);
    api->ReleaseStatus(status);
    fail(1, what);
}

// Owns what onnxruntime has made: `release` is called on it in the end.
template <class T, void (*OrtApi::*release)(T *)>
struct Release {
    void operator()(T *object) const { (api->*release)(object); }
};
template <class T, void (*OrtApi::*release)(T *)>
using Owned = std::unique_ptr<T, Release<T, release>>;
using OwnedValue = Owned<OrtValue, &OrtApi::ReleaseValue>;

// Bytes of an element, by ONNXTensorElementDataType; 0 for strings and what is smaller than a byte.
std::size_t element_size(ONNXTensorElementDataType type) {
    static const std::size_t sizes[] = {0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8, 8, 16, 2};
    const auto index = static_cast<std::size_t>(type);
    return index < std::size(sizes) ? sizes[index] : 0;
}

ONNXTensorElementDataType type_of_input(const OrtSession *session, std::size_t index) {
    OrtTypeInfo *info = nullptr;
    check(api->SessionGetInputTypeInfo(session, index, &info));
    Owned<OrtTypeInfo, &OrtApi::ReleaseTypeInfo> owner(info);
    const OrtTensorTypeAndShapeInfo *tensor = nullptr;
    check(api->CastTypeInfoToTensorInfo(info, &tensor));
    ONNXTensorElementDataType type{};
    if (tensor != nullptr) check(api->GetTensorElementType(tensor, &type));
    return type;
}

// One input, as the command line gives it; onnxruntime reads its elements where they are.
struct Input {
    std::string name;
    std::vector<std::int64_t> shape;
    std::vector<char> bytes;

    explicit Input(const std::string &text) {
        const auto equals = text.find('='), colon = text.rfind(':');
        if (equals == std::string::npos || colon == std::string::npos || colon < equals) fail(2, text + " is not NAME=FILE:SHAPE");
        name = text.substr(0, equals);
        const std::string path = text.substr(equals + 1, colon - equals - 1);
        std::stringstream sizes(text.substr(colon + 1));
        for (std::string size; std::getline(sizes, size, ',');) shape.push_back(std::atoll(size.c_str()));
        std::ifstream file(path, std::ios::binary);
        if (!file) fail(2, path + " cannot be read");
        bytes.assign(std::istreambuf_iterator<char>(file), {});
    }

    OwnedValue tensor(const OrtMemoryInfo *memory, ONNXTensorElementDataType type) {
        std::size_t needed = element_size(type);
        if (needed == 0) fail(2, "input " + name + " is of a type that has no fixed size");
        for (const std::int64_t size : shape) needed *= static_cast<std::size_t>(size);
        if (bytes.size() != needed)
            fail(2, "input " + name + " has " + std::to_string(bytes.size()) + " bytes; its shape needs " + std::to_string(needed));
        OrtValue *value = nullptr;
        check(api->CreateTensorWithDataAsOrtValue(memory, bytes.data(), bytes.size(), shape.data(), shape.size(), type, &value));
        return OwnedValue(value);
    }
};

// The elements of a tensor, to standard output.
bool write(OrtValue *value) {
    OrtTensorTypeAndShapeInfo *info = nullptr;
    check(api->GetTensorTypeAndShape(value, &info));
    Owned<OrtTensorTypeAndShapeInfo, &OrtApi::ReleaseTensorTypeAndShapeInfo> owner(info);
    ONNXTensorElementDataType type{};
    std::size_t count = 0;
    void *data = nullptr;
    check(api->GetTensorElementType(info, &type));
    check(api->GetTensorShapeElementCount(info, &count));
    check(api->GetTensorMutableData(value, &data));
    return std::fwrite(data, element_size(type), count, stdout) == count;
}

}  // namespace

int main(int count, char **arguments) {
    int first = 3;  // input
    while (first < count && std::strncmp(arguments[first], "mcd.", 4) == 0) ++first;
    if (first >= count) fail(2, "usage: run MODEL LIBRARY [mcd.KEY=VALUE...] NAME=FILE:SHAPE... > output.bin");
    std::vector<Input> inputs(arguments + first, arguments + count);
    const std::filesystem::path model = arguments[1], library = arguments[2];
    api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (api == nullptr) fail(1, "the installed onnxruntime is older than its header");

    OrtEnv *env = nullptr;
    check(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "run", &env));
    Owned<OrtEnv, &OrtApi::ReleaseEnv> env_owner(env);
    OrtSessionOptions *options = nullptr;
    check(api->CreateSessionOptions(&options));
    Owned<OrtSessionOptions, &OrtApi::ReleaseSessionOptions> options_owner(options);

    for (int index = 3; index < first; ++index) {
        const std::string entry = arguments[index];
        const auto equals = std::min(entry.find('='), entry.size() - 1);
        check(api->AddSessionConfigEntry(options, entry.substr(0, equals).c_str(), entry.substr(equals + 1).c_str()));
    }
    // Only for models that were compressed with --at-open: the library restores those constants when it is registered.
    const auto name = model.u8string();
    check(api->AddSessionConfigEntry(options, "mcd.model", reinterpret_cast<const char *>(name.c_str())));
    // The one line that a compressed model needs. A path's characters are onnxruntime's: wide ones on Windows.
    check(api->RegisterCustomOpsLibrary_V2(options, library.c_str()));

    OrtSession *session = nullptr;
    check(api->CreateSession(env, model.c_str(), options, &session));
    Owned<OrtSession, &OrtApi::ReleaseSession> session_owner(session);

    OrtMemoryInfo *memory = nullptr;
    check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    Owned<OrtMemoryInfo, &OrtApi::ReleaseMemoryInfo> memory_owner(memory);
    OrtAllocator *allocator = nullptr;
    check(api->GetAllocatorWithDefaultOptions(&allocator));

    std::vector<const char *> names;
    std::vector<OwnedValue> owners;
    std::vector<const OrtValue *> values;
    std::size_t declared = 0;
    check(api->SessionGetInputCount(session, &declared));
    for (std::size_t index = 0; index < declared; ++index) {
        char *text = nullptr;
        check(api->SessionGetInputName(session, index, allocator, &text));
        const std::string name = text;
        check(api->AllocatorFree(allocator, text));
        for (Input &input : inputs) {
            if (input.name != name) continue;
            names.push_back(input.name.c_str());
            owners.push_back(input.tensor(memory, type_of_input(session, index)));
            values.push_back(owners.back().get());
        }
    }
    if (values.size() != inputs.size()) fail(2, "the model has no input of one of these names, or one is given twice");

    char *output_name = nullptr;
    check(api->SessionGetOutputName(session, 0, allocator, &output_name));
    OrtValue *output = nullptr;
    check(api->Run(session, nullptr, names.data(), values.data(), values.size(), &output_name, 1, &output));
    OwnedValue output_owner(output);
    check(api->AllocatorFree(allocator, output_name));
#ifdef _WIN32
    _setmode(_fileno(stdout), _O_BINARY);  // or each byte 10 would become two
#endif
    return write(output) ? 0 : 1;
}
