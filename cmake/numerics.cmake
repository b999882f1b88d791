# The floating-point flags that the promise of equal bits rests on, for our own targets. They come after whatever flags
# the project around us sets, so that its -ffast-math or -Ofast is undone here: -fno-fast-math first, because it turns
# errno back on, then each of the parts that could have been given by themselves. Clang's -fno-fast-math undoes unsafe
# optimisations too, and its flag for them alone would turn strict exceptions on.
function(adamant_numerics target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-fno-fast-math;$<$<CXX_COMPILER_ID:GNU>:-fno-unsafe-math-optimizations>;-fno-finite-math-only;-fno-associative-math;-fno-reciprocal-math;-fsigned-zeros;-ffp-contract=off;-fno-math-errno>
    # Clang assumes no traps as it is, and warns when it is told to.
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fno-trapping-math>)
endfunction()

# Optimisation at link time would put code of different SIMD levels together and leave device code to whoever links the
# library. A project around us may ask for it by property, of any configuration, or by flag.
function(adamant_no_lto target)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fno-lto>)
  set_property(TARGET ${target} PROPERTY INTERPROCEDURAL_OPTIMIZATION OFF)
  foreach(config IN ITEMS ${CMAKE_BUILD_TYPE} ${CMAKE_CONFIGURATION_TYPES})
    string(TOUPPER ${config} config)
    set_property(TARGET ${target} PROPERTY INTERPROCEDURAL_OPTIMIZATION_${config} OFF)
  endforeach()
endfunction()
