// The one place where the types of exceptions are emitted.
#include "adamant/error.hpp"

namespace adamant {

Unavailable::~Unavailable() = default;
OutOfMemory::OutOfMemory(const std::string& what) : what_(std::make_shared<const std::string>(what)) {}
OutOfMemory::OutOfMemory(const OutOfMemory&) noexcept = default;
OutOfMemory& OutOfMemory::operator=(const OutOfMemory&) noexcept = default;
OutOfMemory::~OutOfMemory() = default;
const char* OutOfMemory::what() const noexcept { return what_->c_str(); }
OutOfDeviceMemory::OutOfDeviceMemory(const OutOfDeviceMemory&) noexcept = default;
OutOfDeviceMemory& OutOfDeviceMemory::operator=(const OutOfDeviceMemory&) noexcept = default;
OutOfDeviceMemory::~OutOfDeviceMemory() = default;
CudaError::CudaError(const std::string& what, int code, bool sticky)
    : std::runtime_error(what), code_(code), sticky_(sticky) {}
CudaError::~CudaError() = default;
NotSaved::~NotSaved() = default;
DurabilityUnsure::~DurabilityUnsure() = default;
NotLoaded::~NotLoaded() = default;

}  // namespace adamant
