#!/usr/bin/env bash
# Checks the CUDA backend of a bundle (scripts/bundle.sh) on this machine: golden cases, plain and from CUDA graphs, the
# tests of every operation, and a part of the cases under compute-sanitizer where that is installed.  Takes some minutes;
# the exit status is 0 if all passed.
set -uo pipefail
root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export LD_LIBRARY_PATH="/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
failed=0
check() {
  echo "== $1"
  shift
  "$@" || { failed=1; echo "FAILED"; }
}

"$root/bin/saccade" info
check "golden cases" "$root/bin/saccade" op --quiet --device cuda "$root/golden"
check "golden cases from graphs" "$root/bin/saccade" op --quiet --graph --device cuda "$root/golden"
export JAVA_TOOL_OPTIONS=-Dsaccade.test.device=cuda
check "tests" "$root/bin/test" --scan-class-path "$root/tests/classes" \
  -n 'dev\.saccade\.(?!Wrap|Scope|Context|Call)[A-Z]\w*Test' -n 'dev\.saccade\.train\.(Gemm|LinearPolicyLoss)Test'
unset JAVA_TOOL_OPTIONS
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck initcheck racecheck synccheck; do
    # One case of every operation.
    cases=()
    last=""
    for file in "$root"/golden/*.safetensors; do
      name="$(basename "$file")"
      operation="${name%%__*}"
      [[ "$operation" == "$last" ]] || cases+=("$file")
      last="$operation"
    done
    check "compute-sanitizer $tool: ${#cases[@]} cases" compute-sanitizer --tool "$tool" --target-processes all \
      --error-exitcode 3 "$root/bin/java" -cp "$root/lib/*" dev.saccade.cli.Main op --quiet --device cuda "${cases[@]}"
  done
fi
exit "$failed"
