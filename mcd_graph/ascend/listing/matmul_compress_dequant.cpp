// The program of the operator's document, put right: out = (x1 @ unzip(x2)^T + bias) * deqScale from files.
//
//   matmul_compress_dequant m k n wCompressedSize indexSize
//
// Reads ./data/mat1.bin (int8, m x k), ./data/weight/weight.dat and ./data/index/weight.dat (as the compressor wrote
// them, of the sizes that are given), ./data/bias.bin (int32, n) and ./data/deqScale.bin (uint64, n), and writes
// ./data/output.bin (float16, m x n). Exit status 1 on any failure, with what the library says about it.
//
// Builds against CANN's headers and libraries, and against those of mcd-graph's stand-in:
//
//   g++ -std=c++11 matmul_compress_dequant.cpp $(mcd ascend cflags) -o matmul_compress_dequant
//
// It was run with the stand-in only, never on a device.

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "acl/acl.h"
#include "aclnnop/aclnn_matmul_compress_dequant.h"

namespace {

// Whatever fails says why: the library keeps the reason until somebody asks for it.
void check(int status, const char *what) {
    if (status != ACL_SUCCESS) {
        const char *reason = aclGetRecentErrMsg();
        throw std::runtime_error(std::string(what) + " failed with " + std::to_string(status) + ": " +
                                 (reason == nullptr ? "no reason given" : reason));
    }
}

// A file of exactly `size` bytes. The buffer is as large as the file, and a file of another size is an error.
std::vector<char> readFile(const std::string &path, size_t size) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) {
        throw std::runtime_error("cannot open " + path);
    }
    const std::streamoff found = file.tellg();
    if (found != static_cast<std::streamoff>(size)) {
        throw std::runtime_error(path + " has " + std::to_string(found) + " bytes instead of " + std::to_string(size));
    }
    std::vector<char> bytes(size);
    file.seekg(0);
    if (!file.read(bytes.data(), static_cast<std::streamsize>(size))) {
        throw std::runtime_error("cannot read " + path);
    }
    return bytes;
}

// Device memory and its description.
struct DeviceTensor {
    void *memory;
    aclTensor *tensor;
};

DeviceTensor makeTensor(const std::vector<char> &bytes, const std::vector<int64_t> &shape, aclDataType type) {
    DeviceTensor made = {nullptr, nullptr};
    check(aclrtMalloc(&made.memory, bytes.size(), ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
    check(aclrtMemcpy(made.memory, bytes.size(), bytes.data(), bytes.size(), ACL_MEMCPY_HOST_TO_DEVICE), "aclrtMemcpy");
    std::vector<int64_t> strides(shape.size(), 1);
    for (size_t i = shape.size() - 1; i > 0; --i) {
        strides[i - 1] = strides[i] * shape[i];
    }
    made.tensor = aclCreateTensor(shape.data(), shape.size(), type, strides.data(), 0, ACL_FORMAT_ND, shape.data(),
                                  shape.size(), made.memory);
    if (made.tensor == nullptr) {
        check(ACL_ERROR_FAILURE, "aclCreateTensor");
    }
    return made;
}

void release(const DeviceTensor &made) {
    check(aclDestroyTensor(made.tensor), "aclDestroyTensor");
    check(aclrtFree(made.memory), "aclrtFree");
}

void run(int64_t m, int64_t k, int64_t n, int64_t weightSize, int64_t indexSize, aclrtStream stream) {
    const size_t rows = static_cast<size_t>(m), columns = static_cast<size_t>(n), depth = static_cast<size_t>(k);
    const DeviceTensor x1 = makeTensor(readFile("./data/mat1.bin", rows * depth), {m, k}, ACL_INT8);
    const DeviceTensor x2 =
        makeTensor(readFile("./data/weight/weight.dat", static_cast<size_t>(weightSize)), {weightSize}, ACL_INT8);
    const DeviceTensor index =
        makeTensor(readFile("./data/index/weight.dat", static_cast<size_t>(indexSize)), {indexSize}, ACL_INT8);
    // The operator reads int32. Floats in this file are read as huge integers, and every result is infinite.
    const DeviceTensor bias = makeTensor(readFile("./data/bias.bin", columns * sizeof(int32_t)), {n}, ACL_INT32);
    // 8 bytes a column: an fp32 in a 64-bit word.
    const DeviceTensor scale = makeTensor(readFile("./data/deqScale.bin", columns * sizeof(uint64_t)), {n}, ACL_UINT64);
    std::vector<char> result(rows * columns * sizeof(aclFloat16));
    const DeviceTensor out = makeTensor(result, {m, n}, ACL_FLOAT16);
    // The second argument is the length of the list, not the type of its numbers.
    const std::vector<int64_t> info = {8, 8, k, n, 1};
    aclIntArray *compressInfo = aclCreateIntArray(info.data(), info.size());

    uint64_t workspaceSize = 0;
    aclOpExecutor *executor = nullptr;
    check(aclnnMatmulCompressDequantGetWorkspaceSize(x1.tensor, x2.tensor, index.tensor, bias.tensor, scale.tensor, nullptr,
                                                     0, compressInfo, out.tensor, &workspaceSize, &executor),
          "aclnnMatmulCompressDequantGetWorkspaceSize");
    void *workspace = nullptr;
    if (workspaceSize > 0) {
        check(aclrtMalloc(&workspace, workspaceSize, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
    }
    check(aclnnMatmulCompressDequant(workspace, workspaceSize, executor, stream), "aclnnMatmulCompressDequant");
    check(aclrtSynchronizeStream(stream), "aclrtSynchronizeStream");

    // The result is float16: two bytes a number.
    check(aclrtMemcpy(result.data(), result.size(), out.memory, result.size(), ACL_MEMCPY_DEVICE_TO_HOST), "aclrtMemcpy");
    std::ofstream("./data/output.bin", std::ios::binary).write(result.data(), static_cast<std::streamsize>(result.size()));
    const aclFloat16 *numbers = reinterpret_cast<const aclFloat16 *>(result.data());
    for (size_t i = 0; i < rows * columns && i < 10; ++i) {
        std::cout << "result[" << i << "] is: " << aclFloat16ToFloat(numbers[i]) << "\n";
    }

    if (workspace != nullptr) {
        check(aclrtFree(workspace), "aclrtFree");
    }
    check(aclDestroyIntArray(compressInfo), "aclDestroyIntArray");
    for (const DeviceTensor &made : {x1, x2, index, bias, scale, out}) {
        release(made);
    }
}

} // namespace

int main(int count, char **arguments) {
    if (count != 6) {
        std::cerr << "usage: matmul_compress_dequant m k n wCompressedSize indexSize\n";
        return 1;
    }
    int64_t sizes[5];
    for (int i = 0; i < 5; ++i) {
        sizes[i] = std::atoll(arguments[i + 1]);
        if (sizes[i] <= 0) {
            std::cerr << arguments[i + 1] << " is no positive number\n";
            return 1;
        }
    }
    try {
        aclrtStream stream = nullptr;
        check(aclInit(nullptr), "aclInit");
        check(aclrtSetDevice(0), "aclrtSetDevice");
        check(aclrtCreateStream(&stream), "aclrtCreateStream");
        run(sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], stream);
        check(aclrtDestroyStream(stream), "aclrtDestroyStream");
        check(aclrtResetDevice(0), "aclrtResetDevice");
        check(aclFinalize(), "aclFinalize");
    } catch (const std::exception &error) {
        std::cerr << error.what() << "\n";
        return 1;
    }
    return 0;
}
