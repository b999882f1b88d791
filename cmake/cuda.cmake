# Decides whether the library gets its CUDA backend, and makes the objects of it.
set(ADAMANT_HAVE_CUDA OFF)
# Machine code for each of these, and PTX for what comes after the last; for 11.0 that of 10.0, because 12.0 is newer.
set(ADAMANT_RELEASE_ARCHITECTURES 75-real 80-real 86-real 89-real 90-real 100 120)
# As CMake has booleans, for projects that pass theirs on.
string(TOUPPER "${ADAMANT_CUDA}" adamant_cuda_wanted)
if(adamant_cuda_wanted MATCHES "^(ON|YES|TRUE|Y|1)$")
  set(adamant_cuda_wanted ON)
elseif(adamant_cuda_wanted MATCHES "^(OFF|NO|FALSE|N|0)$")
  set(adamant_cuda_wanted OFF)
elseif(NOT adamant_cuda_wanted STREQUAL "AUTO")
  message(FATAL_ERROR "ADAMANT_CUDA is \"${ADAMANT_CUDA}\"; allowed: ON, OFF, AUTO")
endif()
if(NOT adamant_cuda_wanted STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  # Older ones know neither C++20 nor all of the architectures; asked for before the language is enabled for those.
  set(adamant_cuda_fault "no CUDA compiler that works was found")
  if(CMAKE_CUDA_COMPILER)
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE adamant_nvcc ERROR_QUIET)
    set(adamant_cuda_fault "")
    if(NOT adamant_nvcc MATCHES "release ([0-9]+\\.[0-9]+)" OR CMAKE_MATCH_1 VERSION_LESS 13.0)
      set(adamant_cuda_fault "${CMAKE_CUDA_COMPILER} is not the nvcc of CUDA 13 or newer")
    endif()
  endif()
  if(NOT adamant_cuda_fault)
    # What is there before the language is enabled was asked for; a project around this one has its own.
    set(adamant_architectures ${ADAMANT_RELEASE_ARCHITECTURES})
    if(PROJECT_IS_TOP_LEVEL AND CMAKE_CUDA_ARCHITECTURES)
      set(adamant_architectures ${CMAKE_CUDA_ARCHITECTURES})
    endif()
    set(ADAMANT_CUDA_ARCHITECTURES ${adamant_architectures} CACHE STRING
      "CUDA architectures, as CMAKE_CUDA_ARCHITECTURES has them; native for those of this machine")
    set(CMAKE_CUDA_ARCHITECTURES ${ADAMANT_CUDA_ARCHITECTURES})
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    # One of them, for what tests compile once more.
    set(ADAMANT_CUDA_ONE_ARCHITECTURE ${ADAMANT_CUDA_ARCHITECTURES})
    if(ADAMANT_CUDA_ARCHITECTURES STREQUAL "native")
      set(ADAMANT_CUDA_ONE_ARCHITECTURE ${CMAKE_CUDA_ARCHITECTURES_NATIVE})
      if(NOT CMAKE_CUDA_ARCHITECTURES_NATIVE MATCHES "^[0-9]")
        message(FATAL_ERROR "ADAMANT_CUDA_ARCHITECTURES is native but this machine has no GPU that CUDA can use: name "
                            "architectures, such as 90, or leave it away for those from Turing to Blackwell")
      endif()
    elseif(ADAMANT_CUDA_ARCHITECTURES MATCHES "^all")
      set(ADAMANT_CUDA_ONE_ARCHITECTURE ${CMAKE_CUDA_ARCHITECTURES_ALL})
    endif()
    list(GET ADAMANT_CUDA_ONE_ARCHITECTURE 0 ADAMANT_CUDA_ONE_ARCHITECTURE)
    string(REGEX REPLACE "-.*" "" ADAMANT_CUDA_ONE_ARCHITECTURE "${ADAMANT_CUDA_ONE_ARCHITECTURE}")
    set(ADAMANT_HAVE_CUDA ON)
  elseif(adamant_cuda_wanted STREQUAL "ON")
    message(FATAL_ERROR "ADAMANT_CUDA is ON but ${adamant_cuda_fault}: install the CUDA toolkit, set CUDACXX to its nvcc, or "
                        "configure with -DADAMANT_CUDA=OFF")
  else()
    message(STATUS "adamant: ${adamant_cuda_fault}")
  endif()
endif()
if(ADAMANT_HAVE_CUDA)
  message(STATUS "adamant: CUDA backend for ${ADAMANT_CUDA_ARCHITECTURES}, CUDA ${CMAKE_CUDA_COMPILER_VERSION}")
else()
  message(STATUS "adamant: no CUDA backend (ADAMANT_CUDA=${ADAMANT_CUDA})")
endif()

# The flags that device code gets: those that promise P1 rests on, the host's among them (cmake/numerics.cmake has them),
# and whole device code in each file. They come after whatever flags the project around us sets, and nvcc follows the last:
# they undo its --use_fast_math or -rdc=true. CMake 3.25 does not know C++20 for nvcc.
set(ADAMANT_CUDA_OPTIONS -std=c++20 -fmad=false -ftz=false -prec-div=true -prec-sqrt=true -rdc=false
  --expt-relaxed-constexpr "SHELL:-Xcompiler -fno-fast-math,-fno-finite-math-only,-fno-associative-math"
  "SHELL:-Xcompiler -fno-reciprocal-math,-fsigned-zeros,-ffp-contract=off,-fno-lto")
foreach(warning IN LISTS ADAMANT_WARNINGS)
  list(APPEND ADAMANT_CUDA_OPTIONS "SHELL:-Xcompiler ${warning}")
endforeach()

function(adamant_device_code target)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:${ADAMANT_CUDA_OPTIONS}>
    $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${ADAMANT_WERROR}>>:-Werror=all-warnings>)
  # A standard that the project around us has chosen would come after ours; one that it requires is the C++ compiler's to
  # know, and CMake would ask it of nvcc.
  set_property(TARGET ${target} PROPERTY CUDA_STANDARD)
  set_target_properties(${target} PROPERTIES CUDA_STANDARD_REQUIRED OFF CXX_STANDARD_REQUIRED OFF)
endfunction()

if(ADAMANT_HAVE_CUDA)
  # Objects and not a library: whoever links adamant links with the C++ compiler and needs no CUDA language.
  set(ADAMANT_DEVICE_SOURCES kernels/launch.cu kernels/update_0.cu kernels/update_1.cu kernels/update_2.cu kernels/update_3.cu)
  add_library(adamant_cuda OBJECT kernels/cuda_backend.cpp kernels/cuda_devices.cpp kernels/cuda_error.cpp
    kernels/cuda_memory.cpp ${ADAMANT_DEVICE_SOURCES})
  target_compile_features(adamant_cuda PRIVATE cxx_std_20)
  target_include_directories(adamant_cuda
    PRIVATE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
  target_include_directories(adamant_cuda SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  set_target_properties(adamant_cuda PROPERTIES
    CXX_VISIBILITY_PRESET hidden
    CUDA_VISIBILITY_PRESET hidden
    VISIBILITY_INLINES_HIDDEN ON
    POSITION_INDEPENDENT_CODE ON
    UNITY_BUILD OFF
    CXX_EXTENSIONS OFF
    CUDA_SEPARABLE_COMPILATION OFF)
  adamant_warnings(adamant_cuda)
  adamant_numerics(adamant_cuda)
  adamant_device_code(adamant_cuda)
  adamant_no_lto(adamant_cuda)
  # The static runtime, so that the library needs no CUDA installed; a project may ask for the shared one as CMake has it.
  if(CMAKE_CUDA_RUNTIME_LIBRARY STREQUAL "Shared")
    set(ADAMANT_CUDA_RUNTIME CUDA::cudart)
    set(ADAMANT_CUDA_RUNTIME_FLAGS "-lcudart")  # for those who do not link with CMake
  else()
    set(ADAMANT_CUDA_RUNTIME CUDA::cudart_static)
    set(ADAMANT_CUDA_RUNTIME_FLAGS "-lcudart_static -ldl -lrt -lpthread")
  endif()
endif()
