// Small texts that runtimes read and write: names of ports, the engine's header, messages.

#ifndef TF_OPT_OPS_TEXTS_H_
#define TF_OPT_OPS_TEXTS_H_

#include <string>
#include <string_view>

#include "runtime.h"

namespace tf_opt {

inline std::string ShapeText(const Dims& dims) {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) text += (i == 0 ? "" : ",") + std::to_string(dims[i]);
  return text + "]";
}

inline std::string ShapesText(const std::vector<TensorView>& inputs) {
  std::string text = "inputs of shape";
  for (size_t i = 0; i < inputs.size(); ++i)
    text += " input_" + std::to_string(i) + ShapeText(inputs[i].dims);
  return text;
}

// An engine's messages are several lines of file names and conditions.
inline std::string OneLine(std::string text) {
  for (char& character : text) {
    if (character == '\n') character = ' ';
  }
  while (!text.empty() && text.back() == ' ') text.pop_back();
  constexpr size_t kMaximum = 1000;
  return text.size() <= kMaximum ? text : "... " + text.substr(text.size() - kMaximum);
}

// The value of a string in the header's JSON (which json.dumps wrote), or `otherwise`.
inline std::string HeaderString(std::string_view header, const std::string& key,
                                const std::string& otherwise) {
  const size_t at = header.find('"' + key + '"');
  if (at == std::string_view::npos) return otherwise;
  const size_t begin = header.find_first_not_of(": ", at + key.size() + 2);
  if (begin == std::string_view::npos || header[begin] != '"') return otherwise;
  const size_t end = header.find('"', begin + 1);
  return end == std::string_view::npos ? otherwise
                                       : std::string(header.substr(begin + 1, end - begin - 1));
}

// "input_3" with prefix "input_" -> 3; -1 where the name is another.
inline int IndexOf(std::string_view name, std::string_view prefix) {
  if (name.substr(0, prefix.size()) != prefix) return -1;
  const std::string digits(name.substr(prefix.size()));
  if (digits.empty() || digits.size() > 6 ||
      digits.find_first_not_of("0123456789") != std::string::npos)
    return -1;
  return std::stoi(digits);
}

// What is said where an engine and the node that it is in do not fit.
inline Status Misfit(const std::string& what) {
  return Status::Error(what + ". Optimize the original model again.");
}

}  // namespace tf_opt

#endif  // TF_OPT_OPS_TEXTS_H_
