// Tells CANN's ONNX parser that mcd::MatmulCompressDequant is its own MatMulV2CompressDequant.
//
// ONNX inputs bind to the operator's by position, and ours have its order: x1, x2, compress_index, deq_scale, bias. What
// is left are the attributes. The parser hands a node's attributes over as one JSON text, protobuf's own rendering:
// {"attribute": [{"name": "compress_info", "ints": ["8", "8", ...], "type": ...}, ...]}, integers with or without quotes.
// All that is needed of it is one list of integers, so it is searched for here instead of adding a JSON library.

#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "graph/ascend_string.h"
#include "graph/operator.h"
#include "register/register.h"

namespace domi {
namespace {

const size_t kInfoLength = 5;  // tilingK, tilingN, k, n, direction
const int64_t kTiling = 8;     // the only one that the operator knows
const size_t kMaxDigits = 18;

// Position behind the next `"key"` and its colon, or npos.
size_t FindValue(const std::string &json, const std::string &key, size_t from, size_t to) {
  const std::string quoted = '"' + key + '"';
  size_t at = json.find(quoted, from);
  if (at == std::string::npos || at >= to) {
    return std::string::npos;
  }
  at = json.find_first_not_of(" \t\r\n", at + quoted.size());
  return at == std::string::npos || json[at] != ':' ? std::string::npos : at + 1;
}

// The integers in `[...]` that begins at or behind `from`; false if there is anything else in it.
bool ReadIntegers(const std::string &json, size_t from, size_t to, std::vector<int64_t> *numbers) {
  const size_t open = json.find_first_not_of(" \t\r\n", from);
  const size_t close = json.find(']', from);
  if (open == std::string::npos || json[open] != '[' || close == std::string::npos || close >= to) {
    return false;
  }
  std::string digits;
  for (size_t at = open + 1; at <= close; ++at) {
    const char c = json[at];
    if (std::isdigit(static_cast<unsigned char>(c)) != 0) {
      digits += c;
    } else if (c == ',' || c == ']') {
      if (digits.empty() || digits.size() > kMaxDigits) {
        return false;
      }
      numbers->push_back(static_cast<int64_t>(std::strtoll(digits.c_str(), nullptr, 10)));
      digits.clear();
    } else if (c != '"' && std::isspace(static_cast<unsigned char>(c)) == 0) {
      return false;
    }
  }
  return true;
}

// Finds the attribute called compress_info: the braces around its name hold its integers as well.
bool ReadCompressInfo(const std::string &json, std::vector<int64_t> *info) {
  const size_t name = json.find("\"compress_info\"");
  if (name == std::string::npos) {
    return false;
  }
  const size_t begin = json.rfind('{', name);
  const size_t end = json.find('}', name);
  if (begin == std::string::npos || end == std::string::npos) {
    return false;
  }
  const size_t value = FindValue(json, "ints", begin, end);
  return value != std::string::npos && ReadIntegers(json, value, end, info);
}

Status ParseMatmulCompressDequant(const ge::Operator &source, ge::Operator &target) {
  ge::AscendString json;
  if (source.GetAttr("attribute", json) != ge::GRAPH_SUCCESS || json.GetString() == nullptr) {
    return FAILED;
  }
  std::vector<int64_t> info;
  if (!ReadCompressInfo(json.GetString(), &info) || info.size() != kInfoLength) {
    return FAILED;
  }
  if (info[0] != kTiling || info[1] != kTiling || info[2] <= 0 || info[3] <= 0 || info[4] != 1) {
    return FAILED;
  }
  target.SetAttr("transpose_x1", false);
  target.SetAttr("transpose_x2", false);
  target.SetAttr("compress_info", info);
  target.SetAttr("offset_x", static_cast<int64_t>(0));
  target.SetAttr("alg", ge::AscendString("weight_unzip"));
  return SUCCESS;
}

}  // namespace

REGISTER_CUSTOM_OP("MatMulV2CompressDequant")
    .FrameworkType(ONNX)
    .OriginOpType({ge::AscendString("mcd::1::MatmulCompressDequant")})
    .ParseParamsByOperatorFn(ParseMatmulCompressDequant)
    .ImplyType(ImplyType::TVM);

}  // namespace domi
