#!/usr/bin/env bash
# Runs every check: lint, format, types, the import contracts, then the tests (which check the
# scripts with shellcheck). The last lines say how long each stage took.
#
#   bash tests/run.sh                        everything, e2e included: minutes
#   bash tests/run.sh --quick                all but tests/contract and tests/e2e: a minute
#   bash tests/run.sh tests/unit -k rubric   arguments go to pytest, which runs in one process
#
# Sets up the CPU environment first. Exit code 0 only if every check passed.
set -euo pipefail

# shellcheck source=training/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../training/environment.sh"

stages=() failed=()

# stage NAME COMMAND...: runs it, and notes how it ended and after how long.
stage() {
  local name=$1 started=$SECONDS ended='passed'
  shift
  printf '\n== %s\n' "$*"
  "$@" || ended='FAILED'
  note "$name" "$((SECONDS - started))" "$ended"
}
note() {
  stages+=("$(printf '%-10s %5d s  %s' "$1" "$2" "$3")")
  [[ $3 == passed ]] || failed+=("$1")
}

# Types are checked beside the unit tests; what is found is shown once it is whole.
begin_types() {
  types_began=$SECONDS
  types_output=$(mktemp)
  PYRIGHT_PYTHON_IGNORE_WARNINGS=1 "$ROPD_PYTHON" -m pyright --pythonpath "$ROPD_PYTHON" \
    </dev/null >"$types_output" 2>&1 &
  types_pid=$!
  trap 'kill "$types_pid" 2>/dev/null || :; rm -f "$types_output"' EXIT
}
end_types() {
  local ended='passed'
  wait "$types_pid" || ended='FAILED'
  printf '\n== pyright\n'
  cat -- "$types_output"
  note types "$((SECONDS - types_began))" "$ended"
}

# Two workers, whatever the machine: most tests wait for a process or a reply, and a run of the
# trainer takes gigabytes. A worker that ends its share takes over tests of the other.
tests() {
  "$ROPD_PYTHON" -m pytest -ra --durations=10 --numprocesses 2 --dist worksteal "$@" </dev/null
}

[[ ${1:-} != --quick || $# -eq 1 ]] ||
  ropd_die "--quick takes no arguments; give pytest's without it"
# Every process below gets it, whatever its folder.
[[ ${TMPDIR:-/} == /* ]] || export TMPDIR=$PWD/$TMPDIR

began=$SECONDS
ropd_setup cpu
note setup "$((SECONDS - began))" passed
cd "$ROPD_ROOT"

stage lint "$ROPD_PYTHON" -m ruff check
stage format "$ROPD_PYTHON" -m ruff format --check
stage imports env PYTHONPATH="$ROPD_ROOT/verl" lint-imports --no-cache --no-logo
begin_types
if (($#)) && [[ $1 != --quick ]]; then
  stage tests "$ROPD_PYTHON" -m pytest -ra --durations=10 "$@"
  end_types
else
  stage unit tests tests/unit
  end_types
  if (($# == 0)); then
    stage contract tests tests/contract
    stage e2e tests tests/e2e
  fi
fi

printf '\n'
printf '%s\n' "${stages[@]}" "$(printf '%-10s %5d s' together "$((SECONDS - began))")"
if ((${#failed[@]})); then
  ropd_die "failed: ${failed[*]}"
fi
