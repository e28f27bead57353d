# Files named *_cpu.cpp are compiled once per instruction set, in namespace saccade::<name>; the context picks one at run
# time.  saccade_cpu_kernels(<target> <files>) adds them all to <target>.
#
# -DSACCADE_INSTRUCTION_SETS="baseline;avx2" builds fewer: a context that asks for another is refused.  baseline is
# always there.
set(SACCADE_X86 OFF)
set(all baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(SACCADE_X86 ON)
  list(APPEND all avx2 avx512)
  set(SACCADE_FLAGS_avx2 -mavx2 -mfma -mf16c)
  set(SACCADE_FLAGS_avx512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
endif()

set(SACCADE_INSTRUCTION_SETS "${all}" CACHE STRING "Instruction sets that kernels are compiled for")
if(NOT baseline IN_LIST SACCADE_INSTRUCTION_SETS)
  message(FATAL_ERROR "SACCADE_INSTRUCTION_SETS must hold baseline: ${SACCADE_INSTRUCTION_SETS}")
endif()
set(SACCADE_ISA_DEFINITIONS)
foreach(isa IN LISTS SACCADE_INSTRUCTION_SETS)
  if(NOT isa IN_LIST all)
    message(FATAL_ERROR "SACCADE_INSTRUCTION_SETS: ${isa} is none of ${all}")
  endif()
  string(TOUPPER SACCADE_WITH_${isa} definition)
  list(APPEND SACCADE_ISA_DEFINITIONS ${definition})
endforeach()

function(saccade_cpu_kernels target)
  foreach(isa IN LISTS SACCADE_INSTRUCTION_SETS)
    set(objects ${target}_${isa})
    add_library(${objects} OBJECT ${ARGN})
    target_include_directories(${objects} PRIVATE include src)
    target_compile_definitions(${objects} PRIVATE SACCADE_ISA=${isa} $<$<BOOL:${SACCADE_X86}>:SACCADE_X86>
      ${SACCADE_ISA_DEFINITIONS})
    # Contraction is explicit permission to use fused multiply-adds; nothing else of -ffast-math is wanted: NaN and
    # infinity carry meaning here.
    target_compile_options(${objects} PRIVATE ${SACCADE_FLAGS_${isa}} -ffp-contract=fast -fno-math-errno -fno-trapping-math)
    saccade_warnings(${objects})
    # GCC 12 takes its own intrinsics for reads of uninitialised vectors (its bug 105593).
    target_compile_options(${objects} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized$<SEMICOLON>-Wno-uninitialized>)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
  endforeach()
endfunction()
