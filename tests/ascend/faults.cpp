// A program with one of the faults that the operator document's own listing has, to see that the stand-in names it.
//
//   faults FAULT m k n        in a folder with the listing's ./data
//
// overflow: reads 8 bytes a column into host memory for 4. info: makes compressInfo 9 long. floats: copies the result as
// if its numbers had four bytes. Like that listing it never asks the library what went wrong.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "acl/acl.h"
#include "aclnnop/aclnn_matmul_compress_dequant.h"

namespace {

void check(int status, const char *what) {
    if (status != ACL_SUCCESS) {
        std::cout << what << " failed. ERROR: " << status << std::endl;
        std::_Exit(3);
    }
}

std::vector<char> contents(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// Host memory of `size` bytes, whatever the file has.
aclTensor *load(const std::string &path, const std::vector<int64_t> &shape, size_t size, aclDataType type, void **memory) {
    void *host = nullptr;
    check(aclrtMalloc(memory, size, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
    check(aclrtMallocHost(&host, size), "aclrtMallocHost");
    const std::vector<char> bytes = contents(path);
    std::memcpy(host, bytes.data(), bytes.size());
    check(aclrtMemcpy(*memory, size, host, size, ACL_MEMCPY_HOST_TO_DEVICE), "aclrtMemcpy");
    return aclCreateTensor(shape.data(), shape.size(), type, nullptr, 0, ACL_FORMAT_ND, shape.data(), shape.size(), *memory);
}

} // namespace

int main(int, char **arguments) {
    const std::string fault = arguments[1];
    const int64_t m = std::atoll(arguments[2]), k = std::atoll(arguments[3]), n = std::atoll(arguments[4]);
    const size_t columns = static_cast<size_t>(n), numbers = static_cast<size_t>(m * n);
    aclrtStream stream = nullptr;
    check(aclInit(nullptr), "aclInit");
    check(aclrtSetDevice(0), "aclrtSetDevice");
    check(aclrtCreateStream(&stream), "aclrtCreateStream");

    void *memory[6];
    const std::string weight = "data/weight/weight.dat", tiles = "data/index/weight.dat";
    const size_t w = contents(weight).size(), i = contents(tiles).size();
    aclTensor *x1 = load("data/mat1.bin", {m, k}, static_cast<size_t>(m * k), ACL_INT8, &memory[0]);
    aclTensor *x2 = load(weight, {static_cast<int64_t>(w)}, w, ACL_INT8, &memory[1]);
    aclTensor *index = load(tiles, {static_cast<int64_t>(i)}, i, ACL_INT8, &memory[2]);
    aclTensor *bias = load("data/bias.bin", {n}, columns * 4, ACL_INT32, &memory[3]);
    aclTensor *scale = load("data/deqScale.bin", {n}, columns * (fault == "overflow" ? 4 : 8), ACL_UINT64, &memory[4]);
    aclTensor *out = load("data/empty.bin", {m, n}, numbers * 2, ACL_FLOAT16, &memory[5]);
    const int64_t info[9] = {8, 8, k, n, 1, 77, 77, 77, 77};
    aclIntArray *compressInfo = aclCreateIntArray(info, fault == "info" ? ACL_INT64 : 5);

    uint64_t size = 0;
    aclOpExecutor *executor = nullptr;
    void *workspace = nullptr;
    check(aclnnMatmulCompressDequantGetWorkspaceSize(x1, x2, index, bias, scale, nullptr, 0, compressInfo, out, &size,
                                                     &executor),
          "aclnnMatmulCompressDequantGetWorkspaceSize");
    check(aclrtMalloc(&workspace, size, ACL_MEM_MALLOC_HUGE_FIRST), "aclrtMalloc");
    check(aclnnMatmulCompressDequant(workspace, size, executor, stream), "aclnnMatmulCompressDequant");
    check(aclrtSynchronizeStream(stream), "aclrtSynchronizeStream");
    std::vector<float> result(numbers);
    const size_t bytes = numbers * (fault == "floats" ? sizeof(float) : 2);
    check(aclrtMemcpy(result.data(), numbers * sizeof(float), memory[5], bytes, ACL_MEMCPY_DEVICE_TO_HOST), "aclrtMemcpy");
    return 0;
}
