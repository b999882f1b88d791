# Warnings for our own targets; a consumer's targets are left alone. GCC 12 is wrong about "text" + std::string() at -O3
# (its bug 105651), which is all that its -Wrestrict finds here.
function(adamant_warnings target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra>
    $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>,$<COMPILE_LANGUAGE:CXX>>:-Wno-restrict>
    $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${ADAMANT_WERROR}>>:-Werror>)
endfunction()
