// A file that takes the place of another whole, durably or not at all.
#pragma once
