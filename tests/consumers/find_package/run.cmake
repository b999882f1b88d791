# Builds this project with an installed library of a KIND; one NAMEd ..._with_fast_math, with -ffast-math and whatever this
# machine's processor has.
include("${CMAKE_CURRENT_LIST_DIR}/../steps.cmake")
if(NAME MATCHES "_with_fast_math$")
  string(APPEND FLAGS " -Ofast -ffast-math ${MARCH_NATIVE}")
endif()
string(COMPARE EQUAL "${KIND}" "shared" without_cuda)  # whose runtime a shared library has inside
configure("${CMAKE_CURRENT_LIST_DIR}" "${HERE}" "-DCMAKE_PREFIX_PATH=${INSTALLED}"
  -DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=${without_cuda}
  "-DPROGRAM_SOURCE=${SOURCE}/tests/fast_math_program/program.cpp")
build("${HERE}")
expect_same_output("${HERE}/bin/program")
run("${HERE}/bin/errors")

if("${KIND}" STREQUAL "static" AND HAVE_CUDA)
  expect_refusal("this static library needs the runtime of CUDA [0-9]+\\.[0-9]+ or a later.*CUDAToolkit_ROOT"
    "${CMAKE_CURRENT_LIST_DIR}" "${HERE}_without_cuda" "-DCMAKE_PREFIX_PATH=${INSTALLED}"
    -DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON)
endif()
