# Runs the example in Python and the test of its module with the installed shared library.
include("${CMAKE_CURRENT_LIST_DIR}/../steps.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/find.cmake")
if(NOT python)
  return()
endif()
set(expected "^y = 3\\.0000 x -2\\.0000 after 500 steps\nresumed: the same bits\ninvalid_argument: adamant: adam: learning_rate = -1 ")
# The library's path by an argument and by the environment.
expect_output("${expected}" ${python} -B "${SOURCE}/examples/python/line.py" "${library}")
set(ENV{ADAMANT_LIBRARY} "${library}")
expect_output("${expected}" ${python} -B "${SOURCE}/examples/python/line.py")
expect_output("\nOK\n$" ${python} -B "${CMAKE_CURRENT_LIST_DIR}/module_test.py" "${SOURCE}")
