# For a project that has adamant inside: what that changes of the project, which should be nothing. Remembers all
# variables and what applies to targets to come; expect_that_nothing_leaked(PATTERN) compares, but for variables that match
# PATTERN.
set(_directory_settings COMPILE_OPTIONS COMPILE_DEFINITIONS COMPILE_FEATURES INCLUDE_DIRECTORIES LINK_DIRECTORIES
  LINK_LIBRARIES LINK_OPTIONS)

macro(remember_all)
  foreach(_setting IN LISTS _directory_settings)
    get_directory_property(_before_${_setting} ${_setting})
  endforeach()
  get_cmake_property(_names VARIABLES)
  foreach(_name IN LISTS _names)
    set(_before_${_name} "${${_name}}")
  endforeach()
endmacro()

# Of a folder's targets and tests and those below it.
function(_expect_own_names folder)
  get_property(targets DIRECTORY ${folder} PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS targets)
    if(NOT target MATCHES "^adamant")
      message(SEND_ERROR "adamant makes a target ${target}")
    endif()
  endforeach()
  get_property(tests DIRECTORY ${folder} PROPERTY TESTS)
  if(tests)
    message(SEND_ERROR "adamant makes tests: ${tests}")
  endif()
  get_property(folders DIRECTORY ${folder} PROPERTY SUBDIRECTORIES)
  foreach(each IN LISTS folders)
    _expect_own_names(${each})
  endforeach()
endfunction()

function(expect_that_nothing_leaked pattern)
  foreach(setting IN LISTS _directory_settings)
    get_directory_property(now ${setting})
    if(NOT now STREQUAL _before_${setting})
      message(SEND_ERROR "adamant changes ${setting} from '${_before_${setting}}' to '${now}'")
    endif()
  endforeach()
  get_cmake_property(names VARIABLES)
  foreach(name IN LISTS names)
    # What is its own; what finding its dependencies leaves; CMake's own; what is local to this function and this file.
    if(name MATCHES "^(ADAMANT_|adamant_)"
        OR name MATCHES "^(OpenMP_|nlohmann_json_|CUDA_|CUDAToolkit_|CMAKE_HAVE_LIBC_|FIND_PACKAGE_MESSAGE_DETAILS_)"
        OR name MATCHES "^CMAKE_(MATCH_|PROJECT_VERSION|CURRENT_FUNCTION)"
        OR name MATCHES "^(ARG[CNV][0-9]*|names?|now|setting|pattern)$|^_"
        OR (pattern AND name MATCHES "${pattern}"))
      continue()
    endif()
    if(NOT "${${name}}" STREQUAL "${_before_${name}}" OR NOT DEFINED _before_${name})
      message(SEND_ERROR "adamant changes ${name} from '${_before_${name}}' to '${${name}}'")
    endif()
  endforeach()
  get_target_property(folder adamant::adamant SOURCE_DIR)
  _expect_own_names(${folder})
endfunction()
