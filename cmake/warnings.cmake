# Warnings are for those who work on adamant, whose project this is or who ask for errors. One around it may take warnings
# for errors, and with its flags and its compiler some are found that we have not seen.
# Asked here, because PROJECT_IS_TOP_LEVEL is of the latest project().
set(ADAMANT_WARNINGS "")
if(PROJECT_IS_TOP_LEVEL OR ADAMANT_WERROR)
  set(ADAMANT_WARNINGS -Wall -Wextra)
endif()

# For our own targets; a consumer's targets are left alone. GCC 12 is wrong about "text" + std::string() at -O3 (its bug
# 105651), which is all that its -Wrestrict finds here.
function(adamant_warnings target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:${ADAMANT_WARNINGS}>
    $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>,$<COMPILE_LANGUAGE:CXX>>:-Wno-restrict>
    $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${ADAMANT_WERROR}>>:-Werror>)
endfunction()
