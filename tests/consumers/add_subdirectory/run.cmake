# Builds this project, which installs nothing of adamant unless it asks to.
include("${CMAKE_CURRENT_LIST_DIR}/../steps.cmake")
set(CUDA_OPTIONS ${CUDA_OPTIONS} -DADAMANT_WERROR=OFF)  # as in anybody's project: no warnings are asked for
configure("${CMAKE_CURRENT_LIST_DIR}" "${HERE}" -DBUILD_SHARED_LIBS=OFF -DMARCH_NATIVE=${MARCH_NATIVE}
  ${CUDA_OPTIONS} -DENABLES_CUDA=${HAVE_CUDA}
  -DOWN_CUDA_ARCHITECTURE=${CUDA_ARCHITECTURE}-real -DCMAKE_CUDA_COMPILER_LAUNCHER=)  # a cache would leave no PTX
build("${HERE}")
expect_same_output("${HERE}/bin/program")
expect_output("is not valid UTF-8" "${HERE}/bin/bad_name")

# Code that is put together at link time would no longer be of one SIMD level a file.
execute_process(COMMAND "${OBJDUMP}" -h "${HERE}/adamant/libadamant.a" OUTPUT_VARIABLE sections RESULT_VARIABLE result)
if(NOT result EQUAL 0 OR NOT sections MATCHES "\\.text" OR sections MATCHES "\\.gnu\\.lto")
  message(FATAL_ERROR "the library's objects hold code for the link-time optimiser, or none")
endif()

# Device code as the library has it, whatever flags there are around it.
if(HAVE_CUDA)
  file(GLOB own "${HERE}/kept/*own*.ptx")
  file(READ "${own}" ptx)
  if(NOT ptx MATCHES "approx\\.ftz\\.f32")
    message(FATAL_ERROR "the project's own device code is not compiled with fast math")
  endif()
  file(GLOB library "${HERE}/kept/launch*.ptx" "${HERE}/kept/update_*.ptx")
  set(all "")
  foreach(file IN LISTS library)
    file(READ "${file}" ptx)
    if(ptx MATCHES "[a-z.]+\\.ftz[.a-z0-9]*|fma\\.[.a-z0-9]+|[a-z.]+\\.(approx|full)[.a-z0-9]*|(mul|add|sub)\\.f(32|64)")
      message(FATAL_ERROR "the library's device code has ${CMAKE_MATCH_0} in ${file}")
    endif()
    string(APPEND all "${ptx}")
  endforeach()
  if(NOT all MATCHES "div\\.rn\\.f32" OR NOT all MATCHES "sqrt\\.rn\\.f32")
    message(FATAL_ERROR "the library has no device code that divides and takes roots")
  endif()
endif()

run("${CMAKE_COMMAND}" --install "${HERE}" --config "${CONFIG}" --prefix "${HERE}/prefix")
file(GLOB installed "${HERE}/prefix/*")
if(installed)
  message(FATAL_ERROR "installing a project with adamant inside also installs ${installed}")
endif()

# The build type is the project's to choose, also where it has chosen none.
configure("${CMAKE_CURRENT_LIST_DIR}" "${HERE}_without_build_type" -DCMAKE_BUILD_TYPE= ${CUDA_OPTIONS})
