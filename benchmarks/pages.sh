#!/usr/bin/env bash
# Makes docs/performance.md, its drawings and the table of README.md from results/*.csv.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."
mvn -q -B -ntp -Dstyle.color=never -DskipTests -pl benchmarks -am package
java -cp benchmarks/target/benchmarks.jar dev.saccade.benchmarks.Pages .
