// Whether what the program writes as SVG and HTML is well-formed.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace adamant::test {

// What is wrong with a text as XML, as far as tags, attributes and entities go; nothing when it is well-formed. `count`
// is told the name of each element.
inline std::string flaw_in(const std::string& xml, std::map<std::string, int>& count) {
  std::vector<std::string> open;
  std::size_t at = 0;
  while (at < xml.size()) {
    const std::size_t tag = xml.find('<', at);
    const std::string text = xml.substr(at, tag - at);
    for (std::size_t entity = text.find('&'); entity != std::string::npos; entity = text.find('&', entity + 1)) {
      if (text.find(';', entity) == std::string::npos) return "a bare & in " + text;
    }
    if (tag == std::string::npos) return open.empty() ? "" : "<" + open.back() + "> has no end";
    const std::size_t end = xml.find('>', tag);
    if (end == std::string::npos) return "a tag has no end";
    const std::string inside = xml.substr(tag + 1, end - tag - 1);
    at = end + 1;
    if (inside.find('<') != std::string::npos) return "< within <" + inside + ">";
    if (std::count(inside.begin(), inside.end(), '"') % 2 != 0) return "an open quote in <" + inside + ">";
    if (inside.starts_with('/')) {
      if (open.empty() || open.back() != inside.substr(1)) return "<" + inside + "> closes nothing";
      open.pop_back();
      continue;
    }
    const std::string name = inside.substr(0, inside.find_first_of(" \n/"));
    if (name == "!DOCTYPE") continue;
    if (name.empty()) return "a tag without a name";
    ++count[name];
    if (!inside.ends_with('/')) open.push_back(name);
  }
  return open.empty() ? "" : "<" + open.back() + "> has no end";
}

}  // namespace adamant::test
