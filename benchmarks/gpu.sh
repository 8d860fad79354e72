#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under ten minutes: the operators' tests, the kernels' settings, all benchmarks.
#
#   bash benchmarks/gpu.sh [--dry-run] [FOLDER]      FOLDER: where the results go (results/gpu)
#
# The machine needs Python with torch >= 2.9 for its GPU, and triton; neither is ever installed or changed here.
#   PYTHON=...   the interpreter (python3)
#   WHEELS=...   a folder of wheels, for a machine without a network
#   SECONDS_IN_ALL=...   after which the parts that remain are cut short (570)
# A part that fails or takes too long does not stop the others; the exit code is then 1. FOLDER/summary.md says how it went.
set -uo pipefail

usage() { sed -n '2,11s/^# \{0,1\}//p' "$0"; }

dry=
if [ "${1:-}" = --dry-run ]; then dry=1; shift; fi
case "${1:-}" in -h | --help) usage; exit 0 ;; -*) usage >&2; exit 2 ;; esac
out=${1:-results/gpu}
case $out in /*) ;; *) out=$PWD/$out ;; esac
cd "$(dirname "$0")/.." || exit 1

python=${PYTHON:-python3}
in_all=${SECONDS_IN_ALL:-570}
pip=("$python" -m pip install --quiet --disable-pip-version-check)
if [ -n "${WHEELS:-}" ]; then pip+=(--no-index --find-links "$WHEELS"); fi
# module: distribution, of what the benchmarks and tests import
needed=(numpy:numpy numba:numba transformers:transformers safetensors:safetensors huggingface_hub:huggingface_hub
  jsonargparse:jsonargparse[signatures] tqdm:tqdm matplotlib:matplotlib
  pytest:pytest xdist:pytest-xdist pytest_timeout:pytest-timeout hypothesis:hypothesis)

install() {
  local missing=() pair code=0
  for pair in "${needed[@]}"; do
    "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('${pair%%:*}') is None)" \
      || missing+=("${pair#*:}")
  done
  "$python" -c 'from importlib.metadata import version, PackageNotFoundError
for name in ("torch", "triton"):
    try:
        print(f"{name}=={version(name)}")
    except PackageNotFoundError:
        pass' > "$out/keep.txt" || return 1
  if [ "${#missing[@]}" -gt 0 ]; then "${pip[@]}" --constraint "$out/keep.txt" "${missing[@]}" || code=1; fi
  "${pip[@]}" --no-deps --no-build-isolation . || "${pip[@]}" --no-deps . || code=1
  return "$code"
}

names=() limits=() commands=()
part() { names+=("$1") limits+=("$2") commands+=("${*:3}"); }
part install 40 install
part tests 90 "$python" -m pytest -q -n 8 tests/ops/test_exact.py tests/ops/test_triton.py -k triton
part tune 70 "$python" -m tost.ops.triton.tune
for group in ops:85 scale:75 models:45 decode:40 train:45 memory:35 drift:20 sequences:25; do
  part "bench ${group%%:*}" "${group#*:}" \
    "$python" -m tost bench "${group%%:*}" --device cuda --dtype bfloat16 --out "$(printf %q "$out")"
done

if [ -n "$dry" ]; then
  echo "results in $out; $in_all seconds in all"
  for i in "${!names[@]}"; do printf '%-14s at most %3s s   %s\n' "${names[i]}" "${limits[i]}" "${commands[i]}"; done
  exit 0
fi

mkdir -p "$out" || exit 1
export HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1
summary=$out/summary.md
{
  echo "# GPU run"
  echo
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "GPU: see the tables' headers"
  echo
  echo "| part | seconds | outcome |"
  echo "| --- | ---: | --- |"
} > "$summary"

SECONDS=0
failed=0
for i in "${!names[@]}"; do
  left=$((in_all - SECONDS))
  limit=$((limits[i] < left ? limits[i] : left))
  log=$out/$(echo "${names[i]}" | tr ' ' -).log
  began=$SECONDS
  if [ "$limit" -lt 5 ]; then
    outcome="left out: no time" code=1
  elif [ "${commands[i]}" = install ]; then
    install > "$log" 2>&1
    code=$?
    outcome=$([ "$code" -eq 0 ] && echo done || echo "failed ($code), see $(basename "$log")")
  else
    timeout --kill-after=5 "$limit" bash -c "${commands[i]}" > "$log" 2>&1
    code=$?
    case $code in
      0) outcome=done ;;
      124 | 137) outcome="over $limit s" ;;
      *) outcome="failed ($code), see $(basename "$log")" ;;
    esac
  fi
  [ "$code" -eq 0 ] || failed=1
  echo "| ${names[i]} | $((SECONDS - began)) | $outcome |" | tee -a "$summary"
done
echo "results in $out"
exit "$failed"
