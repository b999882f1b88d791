# Beside a toolkit that is too old, such as a distribution's own, the library is built without CUDA, and says why.
include("${CMAKE_CURRENT_LIST_DIR}/steps.cmake")
file(MAKE_DIRECTORY "${HERE}")
file(WRITE "${HERE}/nvcc" "#!/bin/sh\n"
  "[ \"$*\" = --version ] && echo 'Cuda compilation tools, release 11.8, V11.8.89' && exit\nexec '${CUDA_COMPILER}' \"$@\"\n")
file(CHMOD "${HERE}/nvcc" PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
set(options "-DCMAKE_CUDA_COMPILER=${HERE}/nvcc" -DADAMANT_TESTS=OFF -DADAMANT_BENCH=OFF -DADAMANT_TOOLS=OFF)

file(REMOVE_RECURSE "${HERE}/auto")
expect_output("nvcc is not the nvcc of CUDA 13 or newer.*no CUDA backend" "${CMAKE_COMMAND}" -S "${SOURCE}" -B "${HERE}/auto"
  -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}" ${options})
foreach(on IN ITEMS ON true 1)
  expect_refusal("ADAMANT_CUDA is ON but [^ ]*nvcc is not the nvcc of CUDA 13 or newer" "${SOURCE}" "${HERE}/${on}" ${options}
    -DADAMANT_CUDA=${on})
endforeach()
expect_refusal("ADAMANT_CUDA is \"maybe\"; allowed: ON, OFF, AUTO" "${SOURCE}" "${HERE}/maybe" ${options} -DADAMANT_CUDA=maybe)
foreach(off IN ITEMS OFF false 0)
  file(REMOVE_RECURSE "${HERE}/${off}")
  expect_output("no CUDA backend" "${CMAKE_COMMAND}" -S "${SOURCE}" -B "${HERE}/${off}" -G "${GENERATOR}"
    "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_CUDA_COMPILER=${CUDA_COMPILER}" -DADAMANT_TESTS=OFF -DADAMANT_BENCH=OFF
    -DADAMANT_TOOLS=OFF -DADAMANT_CUDA=${off})
endforeach()
