# -DSACCADE_SANITIZE=address,undefined or thread: instruments every native target.  With Clang also
# fuzzer-no-link,address,undefined: builds tests/fuzz_libfuzzer as well.
set(SACCADE_SANITIZE "" CACHE STRING "Sanitizers, comma-separated")
if(SACCADE_SANITIZE)
  # -O1: above it GCC takes four times as long over instrumented kernels, for a run that is little faster.
  add_compile_options(-fsanitize=${SACCADE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  set(CMAKE_CXX_FLAGS_RELEASE "-O1 -DNDEBUG")
  add_link_options(-fsanitize=${SACCADE_SANITIZE})
endif()
