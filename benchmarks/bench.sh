#!/usr/bin/env bash
# saccade bench on the CPU with every engine, ND4J and DJL too, which it builds; wants a machine that does nothing else.
# Without arguments: all of it, into results/cpu.csv and the pages made from it.  With arguments: those of saccade bench.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

mvn -q -B -ntp -Dstyle.color=never -DskipTests -Ppeers -pl benchmarks/peers,java/cli -am package

# Freed memory is kept, in huge pages: without this PyTorch, which allocates every result anew, spends
# up to half of its time in page faults.  Without memory in one piece there are no huge pages, and rates are halved.
if [[ -w /proc/sys/vm/compact_memory ]]; then echo 1 >/proc/sys/vm/compact_memory; fi
export GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1
export DJL_CACHE_DIR="$PWD/benchmarks/peers/target/djl" OPT_OUT_TRACKING=true

export SACCADE_NO_BUILD=1 # just built
(($# == 0)) || exec ./saccade bench "$@"
results=benchmarks/peers/target/cpu.csv # anew: those that there are may be of another processor
rm -f "$results"
./saccade bench --csv "$results"
mv "$results" benchmarks/results/cpu.csv
benchmarks/pages.sh
