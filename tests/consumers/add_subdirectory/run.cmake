# Builds this project, which installs nothing of adamant unless it asks to.
include("${CMAKE_CURRENT_LIST_DIR}/../steps.cmake")
configure("${CMAKE_CURRENT_LIST_DIR}" "${HERE}" -DBUILD_SHARED_LIBS=OFF)
build("${HERE}")
expect_same_output("${HERE}/bin/program")

# Code that is put together at link time would no longer be of one SIMD level a file.
execute_process(COMMAND "${OBJDUMP}" -h "${HERE}/adamant/libadamant.a" OUTPUT_VARIABLE sections RESULT_VARIABLE result)
if(NOT result EQUAL 0 OR NOT sections MATCHES "\\.text" OR sections MATCHES "\\.gnu\\.lto")
  message(FATAL_ERROR "the library's objects hold code for the link-time optimiser, or none")
endif()

run("${CMAKE_COMMAND}" --install "${HERE}" --config "${CONFIG}" --prefix "${HERE}/prefix")
file(GLOB installed "${HERE}/prefix/*")
if(installed)
  message(FATAL_ERROR "installing a project with adamant inside also installs ${installed}")
endif()

# The build type is the project's to choose, also where it has chosen none.
configure("${CMAKE_CURRENT_LIST_DIR}" "${HERE}_without_build_type" -DCMAKE_BUILD_TYPE=)
