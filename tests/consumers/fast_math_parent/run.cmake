# cmake -DBUILD=... -DTWIN=... -DGENERATOR=... -DCOMPILER=... -DFLAGS=... -DCONFIG=... -P run.cmake
# Builds this project in BUILD and fails unless its program prints the same as TWIN.
execute_process(
  COMMAND "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}" -B "${BUILD}" -G "${GENERATOR}"
          "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_CXX_FLAGS=${FLAGS}" "-DCMAKE_BUILD_TYPE=${CONFIG}"
          "-DCMAKE_RUNTIME_OUTPUT_DIRECTORY=${BUILD}/program"
  COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND "${CMAKE_COMMAND}" --build "${BUILD}" --config "${CONFIG}" --target program --parallel 2
                COMMAND_ERROR_IS_FATAL ANY)
set(PROGRAM "${BUILD}/program/program")
include("${CMAKE_CURRENT_LIST_DIR}/../../fast_math_program/same_output.cmake")
