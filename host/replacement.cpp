#include "host/replacement.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <string>
#include <system_error>
#include <utility>

#include "adamant/error.hpp"

namespace adamant::host {
namespace {

std::error_code system_code(int error) { return {error, std::generic_category()}; }

[[noreturn]] void not_saved(int error, const std::string& why, const std::filesystem::path& target) {
  throw NotSaved(system_code(error), "adamant: '" + target.string() + "' was not saved: " + why);
}

// The result of a system call, called again for as long as a signal interrupts it.
template <typename Call>
auto uninterrupted(const Call& call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

// Calls `write_some(bytes)`, which may write fewer, until all are written. Returns errno or 0.
template <typename WriteSome>
int write_all(std::span<const std::byte> bytes, const WriteSome& write_some) {
  while (!bytes.empty()) {
    const ssize_t written = uninterrupted([&] { return write_some(bytes); });
    if (written < 0) return errno;
    if (written == 0) return ENOSPC;  // POSIX leaves it open what that means; without this it would go on for ever
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return 0;
}

// Gives a new file, which only its owner may use, owner, group and permissions of the one that it is to replace, as far
// as the process may. Where it may not the file is only more private: another group gets nothing.
void hand_on_permissions(const struct stat& former, int descriptor) {
  mode_t mode = former.st_mode & 0777;
  struct stat own {};
  if (::fstat(descriptor, &own) != 0) return;
  if ((own.st_uid != former.st_uid || own.st_gid != former.st_gid) &&
      ::fchown(descriptor, former.st_uid, former.st_gid) != 0 &&
      ::fchown(descriptor, static_cast<uid_t>(-1), former.st_gid) != 0) {
    mode &= ~static_cast<mode_t>(S_IRWXG);
  }
  static_cast<void>(::fchmod(descriptor, mode));
}

}  // namespace

Replacement::Replacement(const std::filesystem::path& target)
    : target_(target), folder_(target.has_parent_path() ? target.parent_path() : ".") {
  if (target.empty()) not_saved(ENOENT, "the path is empty", target);
  // The system would take what is before it for the whole.
  if (target.native().find('\0') != std::string::npos) not_saved(EINVAL, "the path contains a null byte", target);
  struct stat former {};
  const bool replaces = ::stat(target.c_str(), &former) == 0;
  if (!replaces && errno != ENOENT) not_saved(errno, "cannot examine what is there", target);
  if (replaces && !S_ISREG(former.st_mode)) {
    not_saved(S_ISDIR(former.st_mode) ? EISDIR : ENOTSUP, "cannot replace what is not a regular file", target);
  }
  const mode_t mode = replaces ? former.st_mode & 0700 : 0666;
  static std::atomic<unsigned> next{0};
  do {  // goes on where a killed process of the same number left files
    path_ = folder_ / (".adamant-" + std::to_string(::getpid()) + "-" + std::to_string(next++) + ".tmp");
    descriptor_ =
        uninterrupted([&] { return ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, mode); });
  } while (descriptor_ < 0 && errno == EEXIST);
  if (descriptor_ < 0) not_saved(errno, "cannot create a file beside it", target);
  if (replaces) hand_on_permissions(former, descriptor_);
}

Replacement::~Replacement() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!path_.empty()) ::unlink(path_.c_str());
}

void Replacement::append(std::span<const std::byte> bytes) {
  const int error =
      write_all(bytes, [&](std::span<const std::byte> rest) { return ::write(descriptor_, rest.data(), rest.size()); });
  if (error != 0) not_saved(error, "cannot write", target_);
}

void Replacement::rewrite_beginning(std::span<const std::byte> bytes) {
  const int error = write_all(bytes, [&](std::span<const std::byte> rest) {
    return ::pwrite(descriptor_, rest.data(), rest.size(), static_cast<off_t>(bytes.size() - rest.size()));
  });
  if (error != 0) not_saved(error, "cannot write", target_);
}

void Replacement::commit() {
  const std::string unsure =
      "adamant: '" + target_.string() + "' was saved, but may not survive a power failure: cannot sync its folder";
  if (uninterrupted([&] { return ::fsync(descriptor_); }) != 0) not_saved(errno, "cannot sync it to the disk", target_);
  const int descriptor = std::exchange(descriptor_, -1);
  // Not tried again when interrupted: Linux has closed it by then.
  if (::close(descriptor) != 0 && errno != EINTR) not_saved(errno, "cannot close it", target_);
  if (uninterrupted([&] { return std::rename(path_.c_str(), target_.c_str()); }) != 0) {
    not_saved(errno, "cannot put it in its place", target_);
  }
  path_.clear();
  const int folder = uninterrupted([&] { return ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (folder < 0) throw DurabilityUnsure(system_code(errno), unsure);
  const int error = uninterrupted([&] { return ::fsync(folder); }) == 0 ? 0 : errno;
  ::close(folder);
  if (error != 0) throw DurabilityUnsure(system_code(error), unsure);
}

}  // namespace adamant::host
