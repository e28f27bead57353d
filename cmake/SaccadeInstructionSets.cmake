# Files named *_cpu.cpp are compiled once per instruction set, in namespace saccade::<name>; the context picks one at run
# time.  saccade_cpu_kernels(<target> <files>) adds them all to <target>.
set(SACCADE_X86 OFF)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(SACCADE_X86 ON)
endif()

set(SACCADE_INSTRUCTION_SETS baseline)
if(SACCADE_X86)
  list(APPEND SACCADE_INSTRUCTION_SETS avx2 avx512)
  set(SACCADE_FLAGS_avx2 -mavx2 -mfma -mf16c)
  set(SACCADE_FLAGS_avx512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
endif()

function(saccade_cpu_kernels target)
  foreach(isa IN LISTS SACCADE_INSTRUCTION_SETS)
    set(objects ${target}_${isa})
    add_library(${objects} OBJECT ${ARGN})
    target_include_directories(${objects} PRIVATE include src)
    target_compile_definitions(${objects} PRIVATE SACCADE_ISA=${isa} $<$<BOOL:${SACCADE_X86}>:SACCADE_X86>)
    # Contraction is explicit permission to use fused multiply-adds; nothing else of -ffast-math is wanted: NaN and
    # infinity carry meaning here.
    target_compile_options(${objects} PRIVATE ${SACCADE_FLAGS_${isa}} -ffp-contract=fast -fno-math-errno -fno-trapping-math)
    saccade_warnings(${objects})
    # GCC 12 takes its own intrinsics for reads of uninitialised vectors (its bug 105593).
    target_compile_options(${objects} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized$<SEMICOLON>-Wno-uninitialized>)
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${objects}>)
  endforeach()
endfunction()
