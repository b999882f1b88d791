// The one place where the types of exceptions are emitted.
#include "adamant/error.hpp"

namespace adamant {

Unavailable::~Unavailable() = default;
OutOfDeviceMemory::OutOfDeviceMemory(const std::string& what) : what_(std::make_shared<const std::string>(what)) {}
OutOfDeviceMemory::OutOfDeviceMemory(const OutOfDeviceMemory&) noexcept = default;
OutOfDeviceMemory& OutOfDeviceMemory::operator=(const OutOfDeviceMemory&) noexcept = default;
OutOfDeviceMemory::~OutOfDeviceMemory() = default;
const char* OutOfDeviceMemory::what() const noexcept { return what_->c_str(); }
CudaError::CudaError(const std::string& what, int code, bool sticky)
    : std::runtime_error(what), code_(code), sticky_(sticky) {}
CudaError::~CudaError() = default;
NotSaved::~NotSaved() = default;
DurabilityUnsure::~DurabilityUnsure() = default;
NotLoaded::~NotLoaded() = default;

}  // namespace adamant
