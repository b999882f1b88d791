#include "host/checkpoint.hpp"
