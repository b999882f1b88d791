// The page of a benchmark: what a report of `adamant bench` says, as HTML with pictures in SVG.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace adamant::tools {

// One page that needs nothing beside it, no network and no script. Well-formed as XML too. The same report gives the
// same bytes. Each picture stands in a <figure class="bench"> and takes its colours from the text around it, so that
// another page may take it over. Throws std::invalid_argument as rows_of() does.
std::string to_page(const nlohmann::json& report);

}  // namespace adamant::tools
