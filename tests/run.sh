#!/usr/bin/env bash
# Runs every check: lint, format, types, the import contracts, then the tests (which check the
# scripts with shellcheck).
#
#   bash tests/run.sh                        everything, e2e included: minutes
#   bash tests/run.sh tests/unit -k rubric   arguments go to pytest
#
# Sets up the CPU environment first. Exit code 0 only if every check passed.
set -euo pipefail

# shellcheck source=training/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../training/environment.sh"
ropd_setup cpu
cd "$ROPD_ROOT"

failed=()
check() {
  printf '\n== %s\n' "$*"
  "$ROPD_PYTHON" -m "$@" || failed+=("$1")
}
check_imports() {
  printf '\n== lint-imports\n'
  PYTHONPATH="$ROPD_ROOT/verl" lint-imports --no-cache --no-logo || failed+=(lint-imports)
}

check ruff check
check ruff format --check
PYRIGHT_PYTHON_IGNORE_WARNINGS=1 check pyright --pythonpath "$ROPD_PYTHON"
check_imports
check pytest -ra --durations=10 "$@"

if ((${#failed[@]})); then
  ropd_die "failed: ${failed[*]}"
fi
