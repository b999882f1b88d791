# What the scripts of this folder share. cmake -DSETTINGS=... -DNAME=... -DKIND=... -P SCRIPT
cmake_minimum_required(VERSION 3.25)
include("${SETTINGS}")
set(HERE "${WORK}/${NAME}")           # where this test builds
set(INSTALLED "${WORK}/${KIND}_moved")  # where install.cmake leaves a library of a kind

function(run)  # COMMAND WORD...: shows what it prints only when it fails
  execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    list(JOIN ARGN " " command)
    message("${output}")
    message(FATAL_ERROR "failed (${result}): ${command}")
  endif()
endfunction()

# For projects that compile the library: with CUDA where this tree has it, for one architecture and as PTX, because each
# takes ten seconds more and these tests are about how the library is linked. With the flags of this tree, so that a
# compiler cache has the objects.
set(CUDA_OPTIONS -DADAMANT_CUDA=OFF)
if(HAVE_CUDA)
  set(CUDA_OPTIONS -DADAMANT_CUDA=AUTO -DADAMANT_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURE}-virtual
    "-DCMAKE_CUDA_FLAGS=${CUDA_FLAGS}" "-DCMAKE_CUDA_COMPILER_LAUNCHER=${CUDA_LAUNCHER}" -DEXPECT_CUDA=ON)
  set(ENV{CUDACXX} "${CUDA_COMPILER}")
endif()

function(configure source build)  # and more words for cmake
  file(REMOVE_RECURSE "${build}")
  run("${CMAKE_COMMAND}" -S "${source}" -B "${build}" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}"
    "-DCMAKE_CXX_COMPILER_LAUNCHER=${LAUNCHER}" "-DCMAKE_CXX_FLAGS=${FLAGS}" "-DCMAKE_BUILD_TYPE=${CONFIG}"
    "-DADAMANT_WERROR=${WERROR}"
    "-DCMAKE_RUNTIME_OUTPUT_DIRECTORY=${build}/bin$<0:>" ${ARGN})
endfunction()

function(expect_refusal expected source build)  # and more words for cmake: a regular expression
  file(REMOVE_RECURSE "${build}")
  execute_process(COMMAND "${CMAKE_COMMAND}" -S "${source}" -B "${build}" -G "${GENERATOR}"
    "-DCMAKE_CXX_COMPILER=${COMPILER}" ${ARGN} OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE result)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")  # CMake breaks lines
  if(result EQUAL 0 OR NOT output MATCHES "${expected}")
    message(FATAL_ERROR "configuring ${source} (${result}) printed\n${output}\nand not ${expected}")
  endif()
endfunction()

function(build folder)  # and more words for cmake --build
  run("${CMAKE_COMMAND}" --build "${folder}" --config "${CONFIG}" --parallel 2 ${ARGN})
endfunction()

function(expect_same_output PROGRAM)
  include("${SOURCE}/tests/fast_math_program/same_output.cmake")
endfunction()

function(expect_output expected)  # COMMAND WORD...: a regular expression
  execute_process(COMMAND ${ARGN} OUTPUT_VARIABLE output ERROR_VARIABLE output RESULT_VARIABLE result)
  if(NOT result EQUAL 0 OR NOT output MATCHES "${expected}")
    message(FATAL_ERROR "${ARGN} (${result}) printed\n${output}\nand not ${expected}")
  endif()
endfunction()

# Sets `skipped` where there is no make or pkg-config; otherwise builds in HERE with a Makefile, which finds the installed
# library through pkg-config, and leaves the folder of adamant.pc in `pkg_config_path`.
function(make_with_pkg_config makefile)  # and more words for make
  if(NOT PKG_CONFIG OR NOT MAKE)
    message("skipped: make or pkg-config is not installed")
    set(skipped TRUE PARENT_SCOPE)
    return()
  endif()
  file(GLOB_RECURSE file "${INSTALLED}/adamant.pc")
  cmake_path(GET file PARENT_PATH folder)
  file(REMOVE_RECURSE "${HERE}")
  file(MAKE_DIRECTORY "${HERE}")
  run("${CMAKE_COMMAND}" -E env "PKG_CONFIG_PATH=${folder}" "${MAKE}" -C "${HERE}" -f "${makefile}" "PKG_CONFIG=${PKG_CONFIG}"
    ${ARGN})
  set(pkg_config_path "${folder}" PARENT_SCOPE)
endfunction()
