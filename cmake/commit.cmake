# Writes a source file that says which commit it is built from: cmake -DSOURCE=REPOSITORY -DINPUT=... -DOUTPUT=... -P commit.cmake
# The text is empty where SOURCE is no repository of its own, as in an archive or within another project's tree.
set(COMMIT "")
execute_process(COMMAND git -C "${SOURCE}" rev-parse --show-toplevel OUTPUT_VARIABLE top ERROR_QUIET
  OUTPUT_STRIP_TRAILING_WHITESPACE)
file(REAL_PATH "${SOURCE}" source)
if(top STREQUAL source)
  execute_process(COMMAND git -C "${SOURCE}" describe --always --dirty --abbrev=40 --exclude=* OUTPUT_VARIABLE COMMIT ERROR_QUIET
    OUTPUT_STRIP_TRAILING_WHITESPACE)
endif()
configure_file("${INPUT}" "${OUTPUT}" @ONLY)  # leaves a file that would be the same alone
