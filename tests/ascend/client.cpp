// A program as one writes it for the device: reads matrices from files, multiplies, writes the result.
//
//   client DIR m k n
//
// DIR has x1.bin (int8), weight/weight.dat and index/weight.dat (as msModelSlim's compressor exports them), bias.bin
// (int32) and deqScale.bin (uint64); output.bin (float16) is written there. Exit status 1 on any failure.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "acl/acl.h"
#include "aclnnop/aclnn_matmul_compress_dequant.h"

namespace {

void check(int status, const char *what) {
    if (status != ACL_SUCCESS) {
        const char *text = aclGetRecentErrMsg();
        throw std::runtime_error(std::string(what) + " returned " + std::to_string(status) + ": " +
                                 (text == nullptr ? "no message" : text));
    }
}

// What is acquired is given back in reverse order, on every way out.
class Cleanup {
public:
    ~Cleanup() {
        for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
            if ((*step)() != ACL_SUCCESS) {
                std::cerr << "cleaning up failed\n";
                std::_Exit(1);
            }
        }
    }
    void later(std::function<int()> step) { steps_.push_back(std::move(step)); }

private:
    std::vector<std::function<int()>> steps_;
};

std::vector<char> readFile(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
        throw std::runtime_error("cannot read " + path);
    }
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

struct DeviceTensor {
    void *memory;
    aclTensor *tensor;
};

DeviceTensor makeTensor(Cleanup &cleanup, const std::vector<char> &bytes, const std::vector<int64_t> &shape,
                        aclDataType type) {
    DeviceTensor made = {nullptr, nullptr};
    check(aclrtMalloc(&made.memory, bytes.size(), ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
    void *memory = made.memory;
    cleanup.later([memory] { return aclrtFree(memory); });
    check(aclrtMemcpy(memory, bytes.size(), bytes.data(), bytes.size(), ACL_MEMCPY_HOST_TO_DEVICE), "aclrtMemcpy");

    std::vector<int64_t> strides(shape.size(), 1);
    for (size_t i = shape.size() - 1; i > 0; --i) {
        strides[i - 1] = strides[i] * shape[i];
    }
    made.tensor = aclCreateTensor(shape.data(), shape.size(), type, strides.data(), 0, ACL_FORMAT_ND, shape.data(),
                                  shape.size(), memory);
    if (made.tensor == nullptr) {
        check(ACL_ERROR_FAILURE, "aclCreateTensor");
    }
    const aclTensor *tensor = made.tensor;
    cleanup.later([tensor] { return aclDestroyTensor(tensor); });
    return made;
}

void run(const std::string &folder, int64_t m, int64_t k, int64_t n) {
    Cleanup cleanup;
    check(aclInit(nullptr), "aclInit");
    cleanup.later([] { return aclFinalize(); });
    check(aclrtSetDevice(0), "aclrtSetDevice");
    cleanup.later([] { return aclrtResetDevice(0); });
    aclrtStream stream = nullptr;
    check(aclrtCreateStream(&stream), "aclrtCreateStream");
    cleanup.later([stream] { return aclrtDestroyStream(stream); });

    const std::vector<char> weight = readFile(folder + "/weight/weight.dat");
    const std::vector<char> index = readFile(folder + "/index/weight.dat");
    const std::vector<char> scale = readFile(folder + "/deqScale.bin");
    std::vector<char> result(static_cast<size_t>(m * n) * sizeof(aclFloat16));
    const DeviceTensor x1 = makeTensor(cleanup, readFile(folder + "/x1.bin"), {m, k}, ACL_INT8);
    const DeviceTensor x2 = makeTensor(cleanup, weight, {static_cast<int64_t>(weight.size())}, ACL_INT8);
    const DeviceTensor tiles = makeTensor(cleanup, index, {static_cast<int64_t>(index.size())}, ACL_INT8);
    const DeviceTensor bias = makeTensor(cleanup, readFile(folder + "/bias.bin"), {n}, ACL_INT32);
    const DeviceTensor deqScale = makeTensor(cleanup, scale, {1, n}, ACL_UINT64);
    const DeviceTensor out = makeTensor(cleanup, result, {m, n}, ACL_FLOAT16);
    const int64_t info[] = {8, 8, k, n, 1};
    const aclIntArray *compressInfo = aclCreateIntArray(info, 5);
    cleanup.later([compressInfo] { return aclDestroyIntArray(compressInfo); });

    uint64_t workspaceSize = 0;
    aclOpExecutor *executor = nullptr;
    check(aclnnMatmulCompressDequantGetWorkspaceSize(x1.tensor, x2.tensor, tiles.tensor, bias.tensor, deqScale.tensor,
                                                     nullptr, 0, compressInfo, out.tensor, &workspaceSize, &executor),
          "aclnnMatmulCompressDequantGetWorkspaceSize");
    void *workspace = nullptr;
    if (workspaceSize > 0) {
        check(aclrtMalloc(&workspace, workspaceSize, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
        cleanup.later([workspace] { return aclrtFree(workspace); });
    }
    // Memory is given back only when no work uses it any more, also where waiting for it below fails.
    cleanup.later([stream] { return aclrtSynchronizeStream(stream); });
    check(aclnnMatmulCompressDequant(workspace, workspaceSize, executor, stream), "aclnnMatmulCompressDequant");
    check(aclrtSynchronizeStream(stream), "aclrtSynchronizeStream");

    check(aclrtMemcpy(result.data(), result.size(), out.memory, result.size(), ACL_MEMCPY_DEVICE_TO_HOST), "aclrtMemcpy");
    std::ofstream(folder + "/output.bin", std::ios::binary).write(result.data(), static_cast<std::streamsize>(result.size()));
    aclFloat16 first = 0;
    std::copy_n(result.data(), sizeof(first), reinterpret_cast<char *>(&first));
    std::cout << "out[0][0] = " << aclFloat16ToFloat(first) << "\n";
}

} // namespace

int main(int count, char **arguments) {
    if (count != 5) {
        std::cerr << "client DIR m k n\n";
        return 1;
    }
    try {
        run(arguments[1], std::atoll(arguments[2]), std::atoll(arguments[3]), std::atoll(arguments[4]));
    } catch (const std::exception &error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
    return 0;
}
