# -DSACCADE_SANITIZE=address,undefined or thread: instruments every native target.
set(SACCADE_SANITIZE "" CACHE STRING "Sanitizers, comma-separated: address,undefined or thread")
if(SACCADE_SANITIZE)
  add_compile_options(-fsanitize=${SACCADE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${SACCADE_SANITIZE})
endif()
