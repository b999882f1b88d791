# Sets `python` to one with NumPy that the installed shared library, `library`, can be loaded into; says why and leaves it empty where
# there is none.
set(python)
if(SANITIZED)
  message("skipped: a sanitizer's runtime cannot be loaded into Python")
else()
  # The first Python that has NumPy: one of a user's own may be without.
  foreach(each IN ITEMS python3 /usr/bin/python3)
    execute_process(COMMAND ${each} -c "import numpy" OUTPUT_QUIET ERROR_QUIET RESULT_VARIABLE result)
    if(result STREQUAL 0)
      set(python ${each})
      break()
    endif()
  endforeach()
  if(NOT python)
    message("skipped: there is no python3 with NumPy (Debian: python3-numpy)")
  endif()
endif()
file(GLOB_RECURSE library "${INSTALLED}/libadamant.so")
