# The examples are projects of their own, too.
include("${CMAKE_CURRENT_LIST_DIR}/steps.cmake")
foreach(example IN ITEMS minimal digits)
  configure("${SOURCE}/examples/${example}" "${HERE}/${example}" "-DCMAKE_PREFIX_PATH=${INSTALLED}")
  build("${HERE}/${example}")
endforeach()
expect_output("y = 3.0000 x\\^2 -2.0000 x \\+0.5000\n$" "${HERE}/minimal/bin/minimal")
expect_output("\ndigest adam +[0-9a-f]+" "${HERE}/digits/bin/digits" --epochs 1 --method adam)
