// The registration calls that the plugin makes, remembered, written for this test.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "graph/ascend_string.h"
#include "graph/operator.h"

namespace domi {

typedef uint32_t Status;
const Status SUCCESS = 0;
const Status FAILED = 1;
enum FrameworkType { CAFFE = 0, TENSORFLOW = 3, ONNX = 5 };
enum class ImplyType : unsigned int { BUILDIN = 0, TVM = 1 };

struct Registration {
  explicit Registration(const char *type) : op_type(type) {}
  Registration &FrameworkType(domi::FrameworkType type) {
    framework = type;
    return *this;
  }
  Registration &OriginOpType(const std::vector<ge::AscendString> &types) {
    for (const ge::AscendString &type : types) {
      origins.push_back(type.GetString());
    }
    return *this;
  }
  Registration &ParseParamsByOperatorFn(const std::function<Status(const ge::Operator &, ge::Operator &)> &function) {
    parse = function;
    return *this;
  }
  Registration &ImplyType(domi::ImplyType type) {
    imply = type;
    return *this;
  }

  std::string op_type;
  domi::FrameworkType framework = CAFFE;
  domi::ImplyType imply = domi::ImplyType::BUILDIN;
  std::vector<std::string> origins;
  std::function<Status(const ge::Operator &, ge::Operator &)> parse;
};

inline std::vector<Registration> &Registrations() {
  static std::vector<Registration> all;
  return all;
}

struct Receiver {
  Receiver(const Registration &registration) { Registrations().push_back(registration); }  // NOLINT: see the macro
};

}  // namespace domi

#define REGISTER_CUSTOM_OP(type) static ::domi::Receiver g_receiver = ::domi::Registration(type)
