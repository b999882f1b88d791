// Writes a checkpoint again with something changed in it and digests that fit, so that tests reach what the digests
// would otherwise hide. Written from docs/checkpoints.md, not from the code it tests.
#pragma once

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "host/safetensors.hpp"

namespace adamant::test {

inline std::string xxh3_text(std::span<const std::byte> bytes) {
  char text[17];
  std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(XXH3_64bits(bytes.data(), bytes.size())));
  return text;
}

enum class Seal { everything, header };  // whose digests are made to fit

using Change = std::function<void(safetensors::Metadata&, std::vector<safetensors::Entry>&)>;

// Entries keep pointing into the file they come from, or to what `change` makes them point to.
inline void rewrite_sealed(const std::filesystem::path& from, const std::filesystem::path& to, const Change& change,
                           Seal seal = Seal::everything) {
  const auto file = safetensors::File::open(from);
  safetensors::Metadata metadata = file.metadata();
  std::vector<safetensors::Entry> entries(file.entries().begin(), file.entries().end());
  change(metadata, entries);
  if (seal == Seal::everything) {
    for (const auto& entry : entries) metadata["adamant.xxh3." + entry.name] = xxh3_text(entry.data);
  }
  metadata["adamant.header.xxh3"] = std::string(16, '0');
  const std::string header = safetensors::make_header(to, entries, metadata);
  metadata["adamant.header.xxh3"] = xxh3_text(std::as_bytes(std::span(header)));
  safetensors::write(to, entries, metadata);
}

}  // namespace adamant::test
