# Builds this project, with a shared library, whichever of its parts comes first.
include("${CMAKE_CURRENT_LIST_DIR}/../steps.cmake")
set(options "-DFETCHCONTENT_SOURCE_DIR_ADAMANT=${SOURCE}" -DBUILD_SHARED_LIBS=ON ${CUDA_OPTIONS})
configure("${CMAKE_CURRENT_LIST_DIR}" "${HERE}_second_first" ${options} -DREVERSED=ON)
configure("${CMAKE_CURRENT_LIST_DIR}" "${HERE}" ${options} -DREVERSED=OFF)
if(SANITIZED)
  return()  # with sanitizers it takes minutes to build what add_subdirectory builds, too
endif()
build("${HERE}")
expect_same_output("${HERE}/bin/program")
expect_output("y = 3.0000 x\\^2 -2.0000 x \\+0.5000\n$" "${HERE}/bin/minimal")
