# Installs the library, its headers, and what find_package() and pkg-config read. Nothing of it names the prefix, so an
# installed tree may be moved. Components: adamant_runtime is what a program needs that was linked to the shared library,
# adamant_development all else but the command line program, which is adamant_program.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(adamant_config_folder ${CMAKE_INSTALL_LIBDIR}/cmake/adamant)
set(adamant_generated ${CMAKE_CURRENT_BINARY_DIR}/install)

install(TARGETS adamant EXPORT adamantTargets
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT adamant_runtime
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT adamant_runtime NAMELINK_COMPONENT adamant_development
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT adamant_development
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR}/include/adamant DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  COMPONENT adamant_development FILES_MATCHING PATTERN *.hpp PATTERN *.h)
install(FILES ${CMAKE_CURRENT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/doc/adamant
  COMPONENT adamant_development)

# --- find_package(adamant CONFIG)
# A shared library brings along the OpenMP runtime by itself, and has CUDA's inside.
set(adamant_needs_openmp OFF)
set(adamant_needs_cuda OFF)
if(adamant_type STREQUAL STATIC_LIBRARY)
  set(adamant_needs_openmp ON)
  set(adamant_needs_cuda ${ADAMANT_HAVE_CUDA})
endif()
set(adamant_cuda_version ${CUDAToolkit_VERSION_MAJOR}.${CUDAToolkit_VERSION_MINOR})
install(EXPORT adamantTargets NAMESPACE adamant:: DESTINATION ${adamant_config_folder} COMPONENT adamant_development)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/adamantConfig.cmake.in ${adamant_generated}/adamantConfig.cmake
  INSTALL_DESTINATION ${adamant_config_folder} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${adamant_generated}/adamantConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${adamant_generated}/adamantConfig.cmake ${adamant_generated}/adamantConfigVersion.cmake
  DESTINATION ${adamant_config_folder} COMPONENT adamant_development)

# --- pkg-config adamant
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(adamant_pc_prefix ${CMAKE_INSTALL_PREFIX})
  set(adamant_pc_includedir ${CMAKE_INSTALL_FULL_INCLUDEDIR})
  set(adamant_pc_libdir ${CMAKE_INSTALL_FULL_LIBDIR})
else()
  file(RELATIVE_PATH adamant_pc_up /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  string(REGEX REPLACE "/$" "" adamant_pc_up "${adamant_pc_up}")
  set(adamant_pc_prefix \${pcfiledir}/${adamant_pc_up})
  set(adamant_pc_includedir \${prefix}/${CMAKE_INSTALL_INCLUDEDIR})
  set(adamant_pc_libdir \${prefix}/${CMAKE_INSTALL_LIBDIR})
endif()
# Only one kind is installed, so an archive's needs are in Libs and nobody has to know that it takes --static. GCC's OpenMP
# runtime goes by its name, which clang finds too; clang's is where only clang's own flag looks.
set(adamant_pc_libraries)
if(adamant_needs_openmp)
  set(adamant_pc_libraries " ${OpenMP_CXX_FLAGS}")
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    list(TRANSFORM OpenMP_CXX_LIB_NAMES PREPEND " -l" OUTPUT_VARIABLE adamant_pc_libraries)
    list(JOIN adamant_pc_libraries "" adamant_pc_libraries)
  endif()
endif()
# A program in C, whose compiler does not know what C++ needs.
if(adamant_type STREQUAL STATIC_LIBRARY)
  foreach(adamant_library IN LISTS CMAKE_CXX_IMPLICIT_LINK_LIBRARIES)
    if(adamant_library MATCHES "^(stdc\\+\\+|c\\+\\+|c\\+\\+abi|m)$")
      string(APPEND adamant_pc_libraries " -l${adamant_library}")
    endif()
  endforeach()
endif()
# CUDA's runtime is where the toolkit is; --define-variable=cudadir=FOLDER says that it is elsewhere.
set(adamant_pc_variables)
if(adamant_needs_cuda)
  set(adamant_pc_variables "cudadir=${CUDAToolkit_LIBRARY_DIR}\n")
  string(APPEND adamant_pc_libraries " -L\${cudadir} ${ADAMANT_CUDA_RUNTIME_FLAGS}")
endif()
configure_file(${CMAKE_CURRENT_LIST_DIR}/adamant.pc.in ${adamant_generated}/adamant.pc @ONLY)
install(FILES ${adamant_generated}/adamant.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT adamant_development)
