// Plays the parser: prints what the plugin registered, then hands it a node's attributes, read from standard input.
#include <iostream>
#include <iterator>

#include "register/register.h"

int main() {
  for (const domi::Registration &registration : domi::Registrations()) {
    std::cout << registration.op_type << ' ' << registration.framework << ' '
              << static_cast<unsigned>(registration.imply) << '\n';
    for (const std::string &origin : registration.origins) {
      std::cout << origin << '\n';
    }
    ge::Operator source;
    ge::Operator target;
    const std::string json((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
    if (!json.empty()) {
      source.SetAttr("attribute", ge::AscendString(json.c_str()));
    }
    const domi::Status status = registration.parse(source, target);
    std::cout << "status " << status << '\n';
    for (const auto &attribute : target.attributes) {
      std::cout << attribute.first << " = " << attribute.second << '\n';
    }
  }
  return 0;
}
