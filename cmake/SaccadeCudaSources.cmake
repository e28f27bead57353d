# Which CUDA sources a check on a GPU was made with: the SHA-256 of the list "SHA-256  path" of native/src/**/*.{cu,cuh,h}
# and native/include/saccade.h, by path, each without comments and without blanks: words about the code and its layout are not
# what was measured.
#
# Included by the build, which says when benchmarks/results/gpu-check.json is of other sources; as a script,
# cmake -P cmake/SaccadeCudaSources.cmake, it prints the hash.
function(saccade_cuda_sources_hash result)
  set(native ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../native)
  file(GLOB_RECURSE files RELATIVE ${native} ${native}/src/*.cu ${native}/src/*.cuh ${native}/src/*.h)
  list(APPEND files include/saccade.h)
  list(SORT files)
  set(sums "")
  foreach(file IN LISTS files)
    file(READ ${native}/${file} text)
    string(REGEX REPLACE "/\\*[^*]*\\*+([^/*][^*]*\\*+)*/" "" text "${text}")
    string(REGEX REPLACE "//[^\n]*" "" text "${text}")
    string(REGEX REPLACE "[ \t\n]+" "" text "${text}")
    string(SHA256 sum "${text}")
    string(APPEND sums "${sum}  ${file}\n")
  endforeach()
  string(SHA256 hash "${sums}")
  set(${result} ${hash} PARENT_SCOPE)
endfunction()

function(saccade_check_gpu_figures)
  set(committed ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../benchmarks/results/gpu-check.json)
  if(NOT EXISTS ${committed})
    return()
  endif()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${committed})
  file(STRINGS ${committed} line REGEX "\"cuda_sources\"")
  string(REGEX REPLACE ".*\"cuda_sources\"[^\"]*\"([^\"]*)\".*" "\\1" measured "${line}")
  saccade_cuda_sources_hash(present)
  if(NOT measured STREQUAL present)
    string(SUBSTRING "${measured}" 0 12 measured)
    string(SUBSTRING ${present} 0 12 present)
    message(NOTICE "saccade: benchmarks/results/gpu-check.json was measured with other CUDA sources (${measured}, not "
      "${present}): run scripts/gpu-check.sh on a GPU")
  endif()
endfunction()

if(CMAKE_SCRIPT_MODE_FILE)
  saccade_cuda_sources_hash(hash)
  execute_process(COMMAND ${CMAKE_COMMAND} -E echo ${hash})
endif()
