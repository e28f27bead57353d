#!/usr/bin/env bash
# Checks the CUDA backend of a bundle (scripts/bundle.sh) on this machine, and measures it: golden cases, plain and from CUDA
# graphs, the tests of every operation, each operation under compute-sanitizer where that is installed, some of these also by
# the kernels that this GPU shares with all others (SACCADE_CAPABILITY=80), and one screen of figures, a few of them beside
# those of PyTorch where python3 has it.  Takes some minutes.  All of it goes to benchmarks/results/gpu-check.json of the
# bundle; the exit status is 0 if all checks passed, whatever the figures.
set -uo pipefail
root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export LD_LIBRARY_PATH="/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
work="$(mktemp -d)" && trap 'rm -rf "$work"' EXIT
notes="$work/notes.jsonl" # what GpuFigures reads
failed=0

count() { # count WORDS: the number before them in the last line of the log that has them
  local number
  number="$(grep -oE "[0-9]+ ($1)" "$work/log" | tail -n 1)"
  echo "${number%% *}"
}
check() { # check NAME COMMAND...
  local name="$1" bad
  echo "== $name"
  shift
  "$@" 2>&1 | tee "$work/log"
  local status="${PIPESTATUS[0]}"
  bad="$(count 'failed|tests failed')"
  if ((status != 0)); then
    failed=1
    echo "FAILED"
    ((${bad:-0} > 0)) || bad=1
  fi
  printf '{"check": "%s", "passed": %d, "failed": %d}\n' "$name" "$(count 'passed|tests successful')" "$bad" >>"$notes"
}

"$root/bin/saccade" info
printf '{"driver": "%s", "cuda_sources": "%s"}\n' \
  "$(nvidia-smi --query-gpu=driver_version --format=csv,noheader --id=0 || echo unknown)" \
  "$(<"$root/cuda-sources.sha256")" >"$notes"
tools=()
if command -v compute-sanitizer >/dev/null; then
  tools=(memcheck initcheck racecheck synccheck)
  every_operation='dev.saccade.train.OperationsTest#aThousandLaunchesGiveTheSameBits(dev.saccade.train.Operations$Operation)'
  # Beside the golden cases: they leave most of the GPU and of the processor alone.
  for tool in "${tools[@]}"; do
    for capability in own 80; do
      (
        JAVA_TOOL_OPTIONS=-Dsaccade.test.launches=2 SACCADE_CAPABILITY="$capability" compute-sanitizer --tool "$tool" \
          --target-processes all --error-exitcode 3 "$root/bin/test" -m "$every_operation" >"$work/$tool.$capability" 2>&1
        echo $? >"$work/$tool.$capability.status"
      ) &
    done
  done
fi
check "golden cases" "$root/bin/saccade" op --quiet --device cuda "$root/golden"
check "golden cases from graphs" "$root/bin/saccade" op --quiet --graph --device cuda "$root/golden"
check "golden cases, kernels of any GPU" env SACCADE_CAPABILITY=80 "$root/bin/saccade" op --quiet --device cuda "$root/golden"
wait
of_sanitizer() { cat "$work/$1" && return "$(<"$work/$1.status")"; }
for tool in ${tools[@]+"${tools[@]}"}; do
  check "compute-sanitizer $tool" of_sanitizer "$tool.own"
  check "compute-sanitizer $tool, kernels of any GPU" of_sanitizer "$tool.80"
done
check "tests of the GPU" "$root/bin/test" --include-tag gpu
export JAVA_TOOL_OPTIONS=-Dsaccade.test.device=cuda
check "tests of operations" "$root/bin/test" --exclude-tag gpu \
  -n 'dev\.saccade\.(?!Wrap|Scope|Context|Call)[A-Z]\w*Test' -n 'dev\.saccade\.train\.(Gemm|LinearPolicyLoss)Test'
unset JAVA_TOOL_OPTIONS
echo "== figures"
"$root/bin/java" -cp "$root/lib/*" dev.saccade.benchmarks.GpuFigures "$root/benchmarks/results/gpu-check.json" "$notes" ||
  failed=1
exit "$failed"
