# Builds this program with an installed library of a KIND.
include("${CMAKE_CURRENT_LIST_DIR}/../steps.cmake")
make_with_pkg_config("${CMAKE_CURRENT_LIST_DIR}/Makefile" "CXX=${COMPILER}" "CXXFLAGS=-O2 ${FLAGS}"
  "PROGRAM_SOURCE=${SOURCE}/tests/fast_math_program/program.cpp")
if(skipped)
  return()
endif()
expect_same_output("${HERE}/program")
expect_output("^${VERSION}\n$" "${CMAKE_COMMAND}" -E env "PKG_CONFIG_PATH=${pkg_config_path}" "${PKG_CONFIG}" --modversion adamant)
