# Decides whether device code is built. This version has no CUDA backend yet; with a CUDA compiler the tests prove that
# the rules and their scalars, compiled for a device, give the host's bits.
set(ADAMANT_HAVE_CUDA OFF)
# Only the tests have device code so far, so a project around this one needs no working CUDA compiler for it.
if(ADAMANT_CUDA STREQUAL "ON" OR (ADAMANT_CUDA STREQUAL "AUTO" AND ADAMANT_TESTS))
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(ADAMANT_CUDA_ARCHITECTURES 90 CACHE STRING "CUDA architectures, as CMAKE_CUDA_ARCHITECTURES has them")
    set(CMAKE_CUDA_ARCHITECTURES ${ADAMANT_CUDA_ARCHITECTURES})
    enable_language(CUDA)
    set(ADAMANT_HAVE_CUDA ON)
  elseif(ADAMANT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "ADAMANT_CUDA is ON but no CUDA compiler was found: install the CUDA toolkit, set CUDACXX to its "
                        "nvcc, or configure with -DADAMANT_CUDA=OFF")
  endif()
endif()
message(STATUS "adamant: device code ${ADAMANT_HAVE_CUDA} (ADAMANT_CUDA=${ADAMANT_CUDA})")
