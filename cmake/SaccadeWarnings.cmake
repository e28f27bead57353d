# Warnings of every native target.  SACCADE_WERROR makes them errors; CI sets it.
option(SACCADE_WERROR "Treat compiler warnings as errors" OFF)

function(saccade_warnings target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wdouble-promotion -Wno-psabi>)
  if(SACCADE_WERROR)
    target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
  endif()
endfunction()
