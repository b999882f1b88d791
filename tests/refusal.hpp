// What is refused, and in which words.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

namespace adamant::test {

// The call throws an Exception whose text names all of `parts`; one with "adamant: " in front is what the text begins
// with.
template <typename Exception = std::invalid_argument>
void expect_refusal(const std::function<void()>& call, const std::vector<std::string>& parts) {
  try {
    call();
    ADD_FAILURE() << "not refused; expected: " << testing::PrintToString(parts);
  } catch (const Exception& error) {
    const std::string text = error.what();
    EXPECT_EQ(text.rfind("adamant: ", 0), 0U) << text;
    for (const std::string& part : parts) {
      const std::size_t at = text.find(part);
      EXPECT_TRUE(part.starts_with("adamant: ") ? at == 0 : at != std::string::npos)
          << '"' << text << "\" lacks " << part;
    }
  } catch (const std::exception& error) {
    ADD_FAILURE() << "refused with another type of exception: " << error.what();
  }
}

}  // namespace adamant::test
