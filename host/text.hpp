// Numbers as text, independent of the locale, for error messages and options.
#pragma once

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace adamant::host {

// The shortest text that reads back as the same number.
template <typename Number>
std::string to_text(Number number) {
  char buffer[64];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, number);
  return {buffer, result.ptr};
}

// The number that the whole of `text` spells, if it does.
template <typename Number, typename... Format>
std::optional<Number> from_text(std::string_view text, Format... format) {
  Number number{};
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number, format...);
  if (result.ec != std::errc{} || result.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

inline constexpr std::string_view kHexadecimal = "0x";

// The number that the whole of `text` spells, in decimal or as hexadecimal_text() does.
inline std::optional<double> number_from_text(std::string_view text) {
  // As C and Python write it, a sign stands before the 0x: -0.0 is a value that options may have.
  const bool is_negative = text.starts_with('-');
  std::string_view digits = text.substr(is_negative ? 1 : 0);
  if (!digits.starts_with(kHexadecimal)) return from_text<double>(text);
  digits.remove_prefix(kHexadecimal.size());
  if (digits.starts_with('-')) return std::nullopt;
  const std::optional<double> number = from_text<double>(digits, std::chars_format::hex);
  return number && is_negative ? -*number : number;
}

// "0x1.999999999999ap-4", exactly the number, as C, Python and make_method() read it.
inline std::string hexadecimal_text(double number) {
  char buffer[64];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::hex);
  std::string_view digits(buffer, static_cast<std::size_t>(result.ptr - buffer));
  const bool negative = digits.starts_with('-');
  if (negative) digits.remove_prefix(1);
  return (negative ? "-" : "") + std::string(kHexadecimal) + std::string(digits);
}

// "0x7f00c0de0000"
inline std::string address_text(const void* address) {
  char buffer[32];
  const auto value = reinterpret_cast<std::uintptr_t>(address);
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, value, 16);
  return std::string(kHexadecimal) + std::string(buffer, result.ptr);
}

// Text of the caller's or of a file's, made fit for one line of a message: control characters escaped, and cut, not
// within a UTF-8 character, where it is long.
inline std::string printable(std::string_view text, std::size_t limit = 200) {
  const bool cut = text.size() > limit;
  if (cut) {
    text = text.substr(0, limit);
    for (int back = 0; back < 3 && (static_cast<unsigned char>(text.back()) & 0xC0) == 0x80; ++back) {
      text.remove_suffix(1);
    }
    if (static_cast<unsigned char>(text.back()) >= 0xC0) text.remove_suffix(1);
  }
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0U;
    const auto before = i > 0 ? static_cast<unsigned char>(text[i - 1]) : 0U;
    // U+0080 to U+009F are control characters too, some terminals': two bytes of UTF-8.
    const auto second = byte == 0xC2 ? next : before == 0xC2 ? byte : 0U;
    const bool is_of_c1 = second >= 0x80 && second < 0xA0;
    if (byte < 0x20 || byte == 0x7F || is_of_c1) {
      result += "\\x";
      result += "0123456789abcdef"[byte >> 4];
      result += "0123456789abcdef"[byte & 15];
    } else {
      result += text[i];
    }
  }
  return result + (cut ? "..." : "");
}

inline std::string in_quotes(std::string_view text) { return '"' + printable(text) + '"'; }

// "a, b, c"
template <typename Range>
std::string joined(const Range& texts) {
  std::string all;
  for (const auto& text : texts) {
    if (!all.empty()) all += ", ";
    all += text;
  }
  return all;
}

}  // namespace adamant::host
