#!/usr/bin/env bash
# All that needs a GPU, in one command: build, tests, sanitizer, benchmarks, report.
#
#   benchmarks/gpu.sh                        every stage
#   benchmarks/gpu.sh build test sanitize    some of them, in the order given
#   benchmarks/gpu.sh bench                  loss share cached suite more
#
#   build     both native libraries
#   test      the GPU tests, which fail without a GPU, and the compile test
#   sanitize  compute-sanitizer's memcheck and racecheck on small steps; said where it is refused
#   loss      the loss step against every contender, the sizes most worth knowing first
#   share     the loss's share of a training step
#   cached    the loss part of a cached step against sentence-transformers' slices of 32 rows
#   suite     the pytest-benchmark suites on the GPU: forward, step, memory, first build
#   more      sizes between, dense similarities, tuned compilation, fp32
#   report    gpu.md and a plot; always done, at the end
#
# It needs torch 2.10+ with CUDA, nvcc, cmake, ninja and this checkout; installs and downloads
# nothing. A stage has its own time limit and log; a failed one stops no other. Result files are
# written after every size, so that a run cut short leaves what it has. The exit code is 0 if all
# stages passed.
#
#   OUT     folder of results and logs; default benchmarks/results, logs in build/gpu
#   LIMIT   seconds a stage may take at most; default: its own
#   PYTHON  the interpreter; default python3
#   COMMIT  what to call this checkout where it is no git repository
#   DEVICE  cpu (with OUT): rehearse the benchmark stages at tiny sizes, without a GPU
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
self=$root/benchmarks/$(basename "${BASH_SOURCE[0]}")
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
out=${OUT:-$root/benchmarks/results}
logs=${OUT:-$root/build/gpu}
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false

declare -A limits=([build]=240 [test]=420 [sanitize]=300 [loss]=540 [share]=240 [cached]=300 [suite]=240 [more]=570)
# The benchmark stages share a log: what fetches results may count files.
declare -A log_of=([build]=build [test]=test [sanitize]=sanitize [loss]=bench [share]=bench [cached]=bench [suite]=bench [more]=bench)

impossible=77 # a stage's exit code where this machine refuses the tool: said, and no failure

say() { echo "$@" >&2; }

need_cuda() {
  "$python" -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "no CUDA device")'
}

stage_build() {
  "$python" -m softnce_ext build --cpu-only || return
  need_cuda || return
  "$python" -m softnce_ext build --cuda && "$python" -m softnce_ext doctor
}

stage_test() {
  need_cuda || return
  local files
  files=$(grep -l '^from gpu import' python_tests/test_*.py)
  # shellcheck disable=SC2086  # several files
  FAIL_WITHOUT_CUDA=1 SOFTNCE_REQUIRE_NVCC=1 "$python" -m pytest -p no:cacheprovider --durations=10 \
    $files python_tests/test_cuda_build.py
}

find_sanitizer() {
  local place
  for place in "$(command -v compute-sanitizer)" "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer" \
    "${CUDA_HOME:-/usr/local/cuda}/compute-sanitizer/compute-sanitizer"; do
    if [ -x "$place" ]; then
      echo "$place"
      return
    fi
  done
  return 1
}

stage_sanitize() {
  need_cuda || return
  local sanitizer tool report failed=0 refused=0
  if ! sanitizer=$(find_sanitizer); then
    say "compute-sanitizer was not found: nothing was checked"
    return "$impossible"
  fi
  report=$(mktemp)
  for tool in memcheck racecheck; do
    local options=(--tool "$tool" --error-exitcode 42 --target-processes application-only)
    # cuBLAS's kernels are checked for what they read and write, not for how they synchronise.
    if [ "$tool" = memcheck ]; then options+=(--report-api-errors no); else options+=(--kernel-name kns=softnce); fi
    # Every tensor its own allocation, or an overrun lands in a neighbour unseen.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" "${options[@]}" "$python" benchmarks/sanitize.py 2>&1 | tee "$report"
    local code=${PIPESTATUS[0]}
    if grep -q "Device not supported" "$report"; then
      say "compute-sanitizer $tool was refused on this machine: nothing was checked"
      refused=1
    elif [ "$code" -ne 0 ] || ! grep -q "steps ran" "$report"; then
      say "compute-sanitizer $tool failed with exit code $code"
      failed=1
    else
      say "compute-sanitizer $tool found nothing"
    fi
  done
  rm -f "$report"
  if [ "$failed" -eq 0 ] && [ "$refused" -eq 1 ]; then return "$impossible"; fi
  return "$failed"
}

bench_loss() {
  local sizes=(--budget 3 --repeats 11 --limit 3)
  if [ "$device" = cpu ]; then sizes=(--budget 1 --repeats 3 --dimension 64); fi
  "$python" benchmarks/bench_loss.py --device "$device" --json "$out/loss_$device.json" "${sizes[@]}" "$@"
}

rows() { if [ "$device" = cpu ]; then echo 48; else echo "$@"; fi; }

tuned=("compile, max-autotune" "compile, own CUDA graphs")

# shellcheck disable=SC2046  # sizes are words
stage_loss() {
  if [ "$device" = cuda ]; then need_cuda || return; fi
  bench_loss --rows $(rows 4096 512 64 32768 131072) --skip "${tuned[@]}"
}

stage_share() {
  local options=()
  if [ "$device" = cpu ]; then options=(--encoders static --batch 16 --repeats 3); fi
  "$python" benchmarks/bench_share.py --device "$device" --json "$out/loss_share_$device.json" "${options[@]}"
}

stage_cached() {
  local name=cached_cuda options=(--repeats 5 --budget 60)
  if [ "$device" = cpu ]; then name=cached options=(--rows 96 --dimension 16); fi
  "$python" benchmarks/bench_cached.py --device "$device" --json "$out/$name.json" "${options[@]}"
}

stage_suite() {
  if [ "$device" = cuda ]; then need_cuda || return; fi
  local chosen=$device
  if [ "$device" = cpu ]; then chosen="cpu and native and 64"; fi
  FAIL_WITHOUT_CUDA=1 "$python" -m pytest -p no:cacheprovider benchmarks --benchmark-only -k "$chosen" \
    --benchmark-columns=min,median,rounds
}

# shellcheck disable=SC2046
stage_more() {
  if [ "$device" = cuda ]; then need_cuda || return; fi
  local committed=$root/benchmarks/results/loss_$device.json failed=0
  # Sizes measured by an earlier call on the same kind of machine are added to.
  if [ ! -f "$out/loss_$device.json" ] && [ -f "$committed" ]; then cp "$committed" "$out/"; fi
  bench_loss --append --rows $(rows 1024 2048 8192 128) --skip "${tuned[@]}" || failed=1
  bench_loss --append --rows $(rows 512 4096 32768) --similarity dense --skip "${tuned[@]}" || failed=1
  bench_loss --append --rows $(rows 4096 512) --contenders native eager "${tuned[0]}" || failed=1
  bench_loss --append --rows $(rows 512) --contenders native eager "${tuned[1]}" || failed=1
  bench_loss --append --rows $(rows 4096) --dtype float32 --skip "${tuned[@]}" || failed=1
  bench_loss --append --rows $(rows 4096) --dtype float32 --tf32 --skip "${tuned[@]}" || failed=1
  return "$failed"
}

report() {
  local name
  {
    echo "# softnce_ext on a GPU"
    echo
    echo "| stage | outcome | seconds |"
    echo "|---|---|---|"
    for name in "${done_stages[@]}"; do echo "| $name | ${outcome[$name]} | ${seconds[$name]} |"; done
    echo
    local blocks=(loss_cuda share cached_cuda)
    if [ "$device" = cpu ]; then blocks=(loss share cached); fi
    "$python" benchmarks/tables.py --results "$out" --show "${blocks[@]}"
  } >"$out/gpu.md" || return
  "$python" benchmarks/plots.py --results "$out" --device "$device" || return
  cat "$out/gpu.md"
}

run() {
  local name=$1 begin=$SECONDS limit=${limits[$1]} code
  if [ -n "${LIMIT:-}" ] && [ "$LIMIT" -lt "$limit" ]; then limit=$LIMIT; fi
  local log=$logs/${log_of[$name]}.log before last
  echo "== $name (at most $limit s, log: $log)"
  echo "== $name, $(date -u +%FT%TZ)" >>"$log"
  before=$(wc -l <"$log")
  timeout --kill-after=15 "$limit" bash "$self" --stage "$name" >>"$log" 2>&1
  code=$?
  last=$(tail -n +$((before + 1)) "$log" | grep -v '^ *$' | tail -n 1 | cut -c 1-120)
  case $code in
    0) outcome[$name]=passed ;;
    "$impossible") outcome[$name]="not possible here: $last" ;;
    124 | 137) outcome[$name]="cut short after $limit s" ;;
    *) outcome[$name]="failed: $last" ;;
  esac
  seconds[$name]=$((SECONDS - begin))
  done_stages+=("$name")
  tail -n +$((before + 1)) "$log" | tail -n 12
  echo "== $name: ${outcome[$name]}, ${seconds[$name]} s"
  [ "$code" -eq 0 ] || [ "$code" -eq "$impossible" ]
}

cd "$root" || exit
if [ "${1:-}" = --stage ]; then
  "stage_$2"
  exit
fi

if [ "$device" != cuda ] && [ -z "${OUT:-}" ]; then
  say "DEVICE=$device rehearses and needs OUT, so that no measured file is overwritten"
  exit 2
fi
stages=()
for name in "${@:-all}"; do
  case $name in
    all) stages+=(build test sanitize loss share cached suite more) ;;
    bench) stages+=(loss share cached suite more) ;;
    build | test | sanitize | loss | share | cached | suite | more) stages+=("$name") ;;
    report) ;;
    *)
      say "a stage must be one of build test sanitize loss share cached suite more bench report, got $name"
      exit 2
      ;;
  esac
done
mkdir -p "$out" "$logs" || exit
for name in "${stages[@]}"; do rm -f "$logs/${log_of[$name]}.log"; done
# From another folder than the checkout: there Python would find the package without its being installed.
if ! (cd / && "$python" -c "import softnce_ext.native") 2>/dev/null; then
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
fi
(cd / && "$python" -c "import softnce_ext; print('softnce_ext:', softnce_ext.__file__)")

declare -A outcome seconds
done_stages=()
failed=0
for name in "${stages[@]}"; do run "$name" || failed=1; done
report || failed=1
exit "$failed"
