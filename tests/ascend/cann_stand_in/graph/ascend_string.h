// Just enough of a string class for the plugin to compile, written for this test.
#pragma once

#include <string>

namespace ge {

class AscendString {
 public:
  AscendString() = default;
  AscendString(const char *text) : text_(text), set_(true) {}  // NOLINT: the plugin relies on the conversion
  const char *GetString() const { return set_ ? text_.c_str() : nullptr; }

 private:
  std::string text_;
  bool set_ = false;
};

}  // namespace ge
