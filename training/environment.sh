# shellcheck shell=bash
# Sourced by train.sh, launch_judge_vllm.sh and tests/run.sh. Defines functions, runs nothing.
#
#   ropd_read_env NAMES    exports the lines of .env whose names match; variables set already win
#   ropd_setup cpu|gpu     makes the environment unless it is there; sets ROPD_PYTHON and PATH
#   ropd_is_dryrun         true if ROPD_DRYRUN says so
#
# Settings: ROPD_VENV        the environment's folder (default: .venv, for gpu .venv-gpu)
#           ROPD_SKIP_SETUP  1: install nothing, use the `python` on PATH
# Packages come from where pip takes them: PIP_* variables and pip's configuration are handed to uv.

ROPD_ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
ROPD_PYTHON_VERSIONS='>=3.11,<3.13'

ropd_say() { printf 'ropd: %s\n' "$*" >&2; }
ropd_die() { ropd_say "error: $*"; exit 1; }

ropd_is_dryrun() { [[ ${ROPD_DRYRUN:-} =~ ^(1|[Tt][Rr][Uu][Ee]|[Yy][Ee][Ss])$ ]]; }

# --- .env ---------------------------------------------------------------------------------------

# What is needed before Python runs: the project's own settings, pip's and uv's, and their way to
# the network. Python reads the whole file (algo/env_file.py).
# shellcheck disable=SC2034  # read by the scripts that source this file
ROPD_ENV_NAMES='ROPD_[A-Z0-9_]+|PIP_[A-Z_]+|UV_[A-Z_]+|HTTPS?_PROXY|NO_PROXY|SSL_CERT_FILE'

# A value is plain text up to ` #`, or text without backslashes in one pair of quotes. Nothing in it
# is expanded or run.
ropd_read_env() {
  local names=$1 file=$ROPD_ROOT/.env line name value number=0
  local quoted='^[[:space:]]*("([^"\\]*)"|'\''([^'\''\\]*)'\'')[[:space:]]*(#.*)?$'
  [[ -f $file ]] || return 0
  while IFS= read -r line || [[ -n $line ]]; do
    number=$((number + 1))
    [[ $line =~ ^[[:space:]]*(export[[:space:]]+)?($names)[[:space:]]*=(.*)$ ]] || continue
    name=${BASH_REMATCH[2]} value=${BASH_REMATCH[3]}
    if [[ $value =~ $quoted ]]; then
      value=${BASH_REMATCH[2]}${BASH_REMATCH[3]}
    elif [[ $value =~ ^[[:space:]]*[\"\'] ]]; then
      ropd_die "$file, line $number: give $name plain text, or text without backslashes in one pair" \
        'of quotes'
    else
      value=$(sed -E 's/[[:space:]]#.*//; s/^[[:space:]]+//; s/[[:space:]]+$//' <<<"$value")
    fi
    [[ -n ${!name+set} ]] || export "$name=$value"
  done <"$file"
}

# --- running things -----------------------------------------------------------------------------

# Runs a command so that a signal to this script ends it too, at once.
ropd_run() {
  local child status=0
  "$@" </dev/null &
  child=$!
  trap 'kill -TERM "$child" 2>/dev/null; wait "$child"; exit 143' TERM
  trap 'kill -TERM "$child" 2>/dev/null; wait "$child"; exit 130' INT
  wait "$child" || status=$?
  trap - TERM INT
  return "$status"
}

# Two starts at the same time must not install into one folder. The lock ends with the process.
ropd_lock() {
  mkdir -p "$ROPD_ROOT/.cache"
  exec 9>"$ROPD_ROOT/.cache/setup.lock"
  command -v flock >/dev/null || { ropd_say 'no flock here: start one run at a time'; return 0; }
  flock --nonblock 9 && return
  ropd_say 'another start is setting up; waiting for it, 30 minutes at most'
  ropd_run flock --timeout 1800 9 ||
    ropd_die 'the other start is still setting up: end it, then start again'
}
ropd_unlock() { exec 9>&-; }

# --- uv, and where packages come from -----------------------------------------------------------

# Sets ROPD_UV: the caller's own uv if it is recent enough, else one brought by pip.
ropd_find_uv() {
  local candidate own=$ROPD_ROOT/.cache/uv
  for candidate in uv "$own/bin/uv"; do
    if [[ $("$candidate" venv --help 2>/dev/null) == *--clear* ]]; then
      ROPD_UV=$candidate
      return
    fi
  done
  command -v python3 >/dev/null ||
    ropd_die 'neither uv nor python3 found: install Python 3.11 or 3.12 with pip'
  ropd_run env PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USER=0 \
    python3 -m pip install --quiet --upgrade --target "$own" 'uv>=0.8' ||
    ropd_die 'pip could not bring uv (see above): install pip for python3, or install uv yourself'
  ROPD_UV=$own/bin/uv
}

# pip's setting NAME (such as index-url) as one line, empty when there is none. CONFIGURATION is
# what `pip config list` prints: lines of global.NAME='value', a line break in a value as \n.
ropd_pip_setting() {
  local configuration=$1 name=$2 variable
  variable=PIP_$(tr 'a-z-' 'A-Z_' <<<"$name")
  if [[ -n ${!variable:-} ]]; then
    printf '%s\n' "${!variable}"
  else
    sed -n -E "s/^(global|install)\.$name='(.*)'\$/\2/p" <<<"$configuration" | sed 's/\\n/ /g'
  fi | xargs
}

# uv reads none of pip's settings by itself.
ropd_uv_sources() {
  local configuration links index extra cert
  configuration=$(python3 -m pip config list 2>/dev/null) || : # no pip, no configuration
  links=$(ropd_pip_setting "$configuration" find-links)
  index=$(ropd_pip_setting "$configuration" index-url)
  extra=$(ropd_pip_setting "$configuration" extra-index-url)
  cert=$(ropd_pip_setting "$configuration" cert)
  [[ -z $links ]] || export UV_FIND_LINKS="${UV_FIND_LINKS:-${links// /,}}"
  [[ -z $index ]] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
  [[ -z $cert ]] || export SSL_CERT_FILE="${SSL_CERT_FILE:-$cert}"
  if [[ -n $extra ]]; then
    export UV_INDEX="${UV_INDEX:-$extra}"
    # pip takes the best version of all indexes; uv by default stops at the first that has one.
    export UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
  fi
  export UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}"
  ropd_uv_cache
}

# A home that cannot be written, as a service or a container has it, holds no cache.
ropd_uv_cache() {
  local cache=${XDG_CACHE_HOME:-${HOME:-$ROPD_ROOT}/.cache}/uv
  [[ -z ${UV_CACHE_DIR:-} ]] || return 0
  { mkdir -p -- "$cache" && [[ -w $cache ]]; } 2>/dev/null && return
  export UV_CACHE_DIR=$ROPD_ROOT/.cache/packages
  ropd_say "$cache cannot be written: packages are cached in $UV_CACHE_DIR (UV_CACHE_DIR)"
}

# --- environments -------------------------------------------------------------------------------

ropd_is_ready() { [[ -x $1/bin/python && -f $1/.ropd-setup && $(<"$1/.ropd-setup") == "$2" ]]; }

# ropd_ensure VENV WANTED INSTALL: runs the function INSTALL for VENV, unless an earlier run of it
# for the same WANTED text ended well.
ropd_ensure() {
  local venv=$1 wanted=$2 install=$3 started=$SECONDS
  ropd_is_ready "$venv" "$wanted" && return
  ropd_lock
  if ! ropd_is_ready "$venv" "$wanted"; then
    ropd_say "setting up ${venv#"$ROPD_ROOT"/}, once; this takes minutes"
    rm -f "$venv/.ropd-setup"
    ropd_find_uv
    ropd_uv_sources
    ropd_make_venv "$venv"
    "$install" "$venv"
    printf '%s\n' "$wanted" >"$venv/.ropd-setup.new"
    mv -f "$venv/.ropd-setup.new" "$venv/.ropd-setup"
    ropd_say "set up in $((SECONDS - started)) s"
  fi
  ropd_unlock
}

ropd_make_venv() {
  "$1/bin/python" -c '' 2>/dev/null && return
  local clear=--no-clear
  # Only what is an environment is ever cleared: ROPD_VENV may name a folder with other things.
  [[ -f $1/pyvenv.cfg ]] && clear=--clear
  ropd_run "$ROPD_UV" venv --quiet "$clear" --python "$ROPD_PYTHON_VERSIONS" "$1" ||
    ropd_die "no environment in $1 (see above): Python 3.11 or 3.12 has to be on PATH," \
      'and the folder empty or absent'
}

# ropd_pip_install VENV ARGUMENTS...: uv pip install, its progress shown on a terminal only.
ropd_pip_install() {
  local venv=$1 quiet=--quiet
  shift
  [[ -t 2 ]] && unset quiet
  ropd_run "$ROPD_UV" --directory "$ROPD_ROOT" pip install ${quiet+"$quiet"} \
    --python "$venv/bin/python" --compile-bytecode "$@"
}

# A CPU build of torch. The package index's plain torch brings gigabytes of CUDA on Linux, so uv
# is told to take PyTorch's CPU builds, unless the caller's own sources offer one.
ropd_install_cpu() {
  local torch resolved backend
  torch=$(grep '^torch==' "$ROPD_ROOT/constraints/cpu.txt")
  resolved=$("$ROPD_UV" pip compile --quiet --no-annotate --no-header \
    --python "$1/bin/python" - <<<"$torch") ||
    ropd_die "$torch cannot be resolved (see above): check the network and pip's index settings"
  [[ $resolved == *nvidia-* ]] && backend=cpu
  ropd_pip_install "$1" ${backend+--torch-backend "$backend"} \
    --editable '.[cpu,batch,math,dev]' --constraints constraints/cpu.txt ||
    ropd_die 'the installation failed (see above). If it is torch that was missing: set' \
      'PIP_FIND_LINKS to a folder with a CPU build of it'
  "$1/bin/python" - <<'PY' || ropd_die 'torch is not a CPU build: remove the folder' \
    "$1, set PIP_FIND_LINKS to a folder with a CPU build of $torch, and start again"
import sys
from importlib.metadata import distributions

import torch

cuda = sorted({d.name for d in distributions() if d.name.startswith("nvidia-")})
if cuda or torch.version.cuda is not None:
    sys.exit(f"CUDA arrived with torch {torch.__version__}: {', '.join(cuda) or 'in its build'}")
PY
}

ropd_install_gpu() {
  ropd_pip_install "$1" --editable '.[gpu,batch,math]' --constraints constraints/gpu.txt ||
    ropd_die 'the installation failed (see above)'
}

ropd_setup() {
  local profile=$1 venv wanted
  # shellcheck disable=SC2034  # ROPD_PYTHON is read by the scripts that source this file
  if [[ ${ROPD_SKIP_SETUP:-} == 1 ]]; then
    ROPD_PYTHON=$(command -v python || command -v python3) ||
      ropd_die 'ROPD_SKIP_SETUP=1, but no python is on PATH: unset it, or activate an environment'
    return
  fi
  case $profile in
    cpu) venv=${ROPD_VENV:-$ROPD_ROOT/.venv} ;;
    gpu) venv=${ROPD_VENV:-$ROPD_ROOT/.venv-gpu} ;;
    *) ropd_die "ROPD_EXTRA is '$profile': set it to cpu or gpu" ;;
  esac
  [[ $venv == /* ]] || venv=$PWD/$venv
  wanted=$(printf '%s\n' "$profile in $ROPD_ROOT" && cat -- "$ROPD_ROOT/pyproject.toml" \
    "$ROPD_ROOT/constraints/$profile.txt")
  ropd_ensure "$venv" "$wanted" "ropd_install_$profile"
  # shellcheck disable=SC2034
  ROPD_PYTHON=$venv/bin/python
  export PATH="$venv/bin:$PATH" VIRTUAL_ENV="$venv"
}
