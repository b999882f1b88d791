// A file that takes the place of another: whole and durably, or not at all. What is in it is not known here.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace adamant::host {

// A new file beside `target`, `.adamant-PID-N.tmp`, that commit() puts in its place. Without commit() it is removed;
// only a kill leaves it behind. Short writes and interrupted calls are gone on with. Every member throws NotSaved,
// after which what was at `target` is as it was; commit() alone may throw DurabilityUnsure as well.
class Replacement {
 public:
  // Refuses a target that is there and is not a regular file: renaming over a device would take it away. Takes over
  // owner, group and permissions of a file that is, as far as the process may, and no access control list.
  explicit Replacement(const std::filesystem::path& target);
  Replacement(const Replacement&) = delete;
  Replacement& operator=(const Replacement&) = delete;
  ~Replacement();

  void append(std::span<const std::byte> bytes);

  // Writes over the beginning of what was appended.
  void rewrite_beginning(std::span<const std::byte> bytes);

  // Syncs the file, renames it to the target and syncs the folder.
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path folder_;
  std::filesystem::path path_;
  int descriptor_ = -1;
};

}  // namespace adamant::host
