# The CUDA backend: <op>.cu of every operation's folder, where nvcc is found.  SACCADE_CUDA=OFF leaves it out, ON makes a
# missing nvcc an error.
set(SACCADE_CUDA AUTO CACHE STRING "The CUDA backend: AUTO (where nvcc is), ON or OFF")
set_property(CACHE SACCADE_CUDA PROPERTY STRINGS AUTO ON OFF)
# SASS for A100 and H100, and PTX from which drivers make the rest.
set(SACCADE_CUDA_CODE "arch=compute_80,code=sm_80;arch=compute_90a,code=sm_90a;arch=compute_80,code=compute_80"
  CACHE STRING "-gencode values that CUDA kernels are compiled for")

option(SACCADE_LINEINFO "Line numbers in CUDA kernels, for profilers and compute-sanitizer" OFF)

set(SACCADE_WITH_CUDA OFF)
if(NOT SACCADE_CUDA STREQUAL "OFF" AND NOT SACCADE_SANITIZE)
  include(CheckLanguage)
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    set(SACCADE_WITH_CUDA ON)
  elseif(SACCADE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SACCADE_CUDA=ON needs nvcc (CUDA 13.0): set CUDACXX or PATH")
  else()
    message(STATUS "No nvcc: building without the CUDA backend")
  endif()
endif()

function(saccade_cuda_kernels target)
  set(objects ${target}_cuda)
  add_library(${objects} OBJECT ${ARGN})
  set_target_properties(${objects} PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON CUDA_EXTENSIONS ON
    CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden)
  target_include_directories(${objects} PRIVATE include src)
  target_compile_definitions(${objects} PRIVATE SACCADE_ISA=cuda)
  foreach(code IN LISTS SACCADE_CUDA_CODE)
    target_compile_options(${objects} PRIVATE -gencode=${code})
  endforeach()
  # __host__ __device__ lambdas and constexpr functions in kernels.
  target_compile_options(${objects} PRIVATE --extended-lambda --expt-relaxed-constexpr
    -Xcompiler=-Wall,-Wextra,-Wno-unused-parameter)
  if(SACCADE_LINEINFO)
    target_compile_options(${objects} PRIVATE -lineinfo)
  endif()
  if(SACCADE_WERROR)
    target_compile_options(${objects} PRIVATE --Werror=all-warnings)
  endif()
  target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
  target_compile_definitions(${target} PRIVATE SACCADE_WITH_CUDA SACCADE_CUDA_VERSION="${CMAKE_CUDA_COMPILER_VERSION}")
  set_target_properties(${target} PROPERTIES CUDA_RUNTIME_LIBRARY Static LINKER_LANGUAGE CXX)
  target_link_libraries(${target} PRIVATE CUDA::cudart_static)
endfunction()
