/// \file
/// All of the library: `#include <adamant/adamant.hpp>`.
#pragma once

#include "adamant/checkpoint.hpp"
#include "adamant/error.hpp"
#include "adamant/method.hpp"
#include "adamant/optimizer.hpp"
#include "adamant/rules.hpp"
#include "adamant/step_control.hpp"
#include "adamant/tuning.hpp"
#include "adamant/types.hpp"
#include "adamant/version.hpp"
