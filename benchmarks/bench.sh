#!/usr/bin/env bash
# Runs every benchmark on every engine, one after the other; wants a machine that does nothing else.
# Writes results/cpu.csv and the table of README.md.  With arguments, which go to JMH (a regular
# expression of benchmarks, -wi 1 -i 1, -p rows=64, ...), only target/results.csv.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

mvn -q -B -ntp -Dstyle.color=never -DskipTests -Ppeers -pl benchmarks/peers -am package

# Freed memory is kept, in huge pages: without this PyTorch, which allocates every result anew, spends
# up to half of its time in page faults.
export GLIBC_TUNABLES=glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776:glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1
export DJL_CACHE_DIR="$PWD/benchmarks/peers/target/djl" OPT_OUT_TRACKING=true

csv=benchmarks/results/cpu.csv
(($# == 0)) || csv=benchmarks/target/results.csv
java=(java "-Dsaccade.commit=$(git describe --always --dirty)" -Dai.djl.offline=true
  -cp "benchmarks/peers/target/benchmarks.jar:benchmarks/peers/target/lib/*")
"${java[@]}" dev.saccade.benchmarks.Suite "$csv" "$@"
(($# > 0)) || "${java[@]}" dev.saccade.benchmarks.ResultTable "$csv" benchmarks/README.md
