#include "host/replacement.hpp"
