// An operator that keeps its attributes as text, written for this test.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "graph/ascend_string.h"

namespace ge {

typedef uint32_t graphStatus;
const graphStatus GRAPH_SUCCESS = 0;
const graphStatus GRAPH_FAILED = 0xFFFFFFFF;

class Operator {
 public:
  Operator &SetAttr(const char *name, bool value) { return Keep(name, value ? "true" : "false"); }
  Operator &SetAttr(const char *name, int64_t value) { return Keep(name, std::to_string(value)); }
  Operator &SetAttr(const char *name, const AscendString &value) { return Keep(name, value.GetString()); }
  Operator &SetAttr(const char *name, const std::vector<int64_t> &values) {
    std::string text;
    for (int64_t value : values) {
      text += (text.empty() ? "" : " ") + std::to_string(value);
    }
    return Keep(name, "[" + text + "]");
  }
  graphStatus GetAttr(const char *name, AscendString &value) const {
    const auto found = attributes.find(name);
    if (found == attributes.end()) {
      return GRAPH_FAILED;
    }
    value = AscendString(found->second.c_str());
    return GRAPH_SUCCESS;
  }

  std::map<std::string, std::string> attributes;

 private:
  Operator &Keep(const char *name, const std::string &text) {
    attributes[name] = text;
    return *this;
  }
};

}  // namespace ge
