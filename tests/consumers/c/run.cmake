# Builds the example in C with an installed library of a KIND, through pkg-config and a C compiler, which links no C++.
include("${CMAKE_CURRENT_LIST_DIR}/../steps.cmake")
if(SANITIZED AND C_COMPILER MATCHES clang)
  string(APPEND FLAGS " -fsanitize-link-c++-runtime")  # what checks the library's classes
endif()
make_with_pkg_config("${SOURCE}/examples/c/Makefile" "CC=${C_COMPILER}" "CFLAGS=-O2 ${FLAGS}")
if(skipped)
  return()
endif()
expect_output("^y = 3\\.0000 x\\^2 -2\\.0000 x \\+0\\.5000\nresumed: the same bits\nadamant: adam: learning_rate = -1 is not"
  "${CMAKE_COMMAND}" -E chdir "${HERE}" ./fit)
if(NOT CMAKE_HOST_SYSTEM_NAME STREQUAL Linux)
  return()
endif()
# Of a shared library nothing else is linked, and the program names the version of the C interface.
execute_process(COMMAND "${OBJDUMP}" -p "${HERE}/fit" OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)
if("${KIND}" STREQUAL "shared")
  string(REGEX MATCHALL "NEEDED +[^\n]+" needed "${output}")
  list(FILTER needed EXCLUDE REGEX " (libadamant|libc|libm|ld-linux[^.]*|lib[a-z]+san)\\.so")
  if(needed OR NOT output MATCHES "ADAMANT_C_1\n")
    message(FATAL_ERROR "the program needs\n${output}")
  endif()
endif()
