// The one place where the types of exceptions are emitted.
#include "adamant/error.hpp"

namespace adamant {

Unavailable::~Unavailable() = default;
NotSaved::~NotSaved() = default;
DurabilityUnsure::~DurabilityUnsure() = default;
NotLoaded::~NotLoaded() = default;

}  // namespace adamant
