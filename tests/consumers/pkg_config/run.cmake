# Builds this program with an installed library of a KIND.
include("${CMAKE_CURRENT_LIST_DIR}/../steps.cmake")
if(NOT PKG_CONFIG OR NOT MAKE)
  message("skipped: make or pkg-config is not installed")
  return()
endif()
file(GLOB_RECURSE file "${INSTALLED}/adamant.pc")
cmake_path(GET file PARENT_PATH folder)
file(REMOVE_RECURSE "${HERE}")
file(MAKE_DIRECTORY "${HERE}")
run("${CMAKE_COMMAND}" -E env "PKG_CONFIG_PATH=${folder}" "${MAKE}" -C "${HERE}" -f "${CMAKE_CURRENT_LIST_DIR}/Makefile"
  "PKG_CONFIG=${PKG_CONFIG}" "CXX=${COMPILER}" "CXXFLAGS=-O2 ${FLAGS}"
  "PROGRAM_SOURCE=${SOURCE}/tests/fast_math_program/program.cpp")
expect_same_output("${HERE}/program")
expect_output("^${VERSION}\n$" "${CMAKE_COMMAND}" -E env "PKG_CONFIG_PATH=${folder}" "${PKG_CONFIG}" --modversion adamant)
