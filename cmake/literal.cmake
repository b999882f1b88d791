# adamant_literal(VARIABLE TEXT): a literal of C with this text, for a compile definition. Flags may have quotes.
function(adamant_literal variable text)
  string(REPLACE "\\" "\\\\" text "${text}")
  string(REPLACE "\"" "\\\"" text "${text}")
  set(${variable} "\"${text}\"" PARENT_SCOPE)
endfunction()
