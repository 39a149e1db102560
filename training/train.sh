#!/usr/bin/env bash
# Trains a student with ROPD. The first start sets up the environment; a later one resumes the run.
#
#   bash training/train.sh --config-name ropd_cpu              the CPU example, on any machine
#   bash training/train.sh                                     8 GPUs, configs/ropd.yaml
#   bash training/train.sh hardware=gpu1                       1 GPU; docs/first-run.md has more
#   ROPD_DRYRUN=true bash training/train.sh [...]              show what would run, start nothing
#
# Further arguments are Hydra overrides. Settings and API keys may stand in .env (see .env.example).
# ROPD_EXTRA=cpu|gpu chooses the environment where the configuration's name and this machine do not.
set -euo pipefail

# shellcheck source=training/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
ropd_read_env "$ROPD_ENV_NAMES"
ROPD_STARTED_AT=$(date +%s) # the run reports how long its first step took to come
export ROPD_STARTED_AT

config_name() {
  local name=ropd
  while (($#)); do
    case $1 in
      --config-name=*) name=${1#*=} ;;
      --config-name | -cn) name=${2:-} && shift ;;
    esac
    shift || break
  done
  printf '%s\n' "$name"
}

has_gpu() { [[ $(nvidia-smi -L 2>/dev/null) == *'GPU '[0-9]*:* ]]; }

if [[ -n ${ROPD_EXTRA:-} ]]; then
  extra=$ROPD_EXTRA
elif [[ $(config_name "$@") == ropd_cpu ]]; then
  extra=cpu
elif has_gpu; then
  extra=gpu
elif ropd_is_dryrun; then
  extra=cpu
else
  ropd_die 'no NVIDIA GPU here: use --config-name ropd_cpu for the CPU example, ROPD_DRYRUN=true' \
    'to see what would run, or ROPD_EXTRA=gpu if the GPUs are on other nodes of a Ray cluster'
fi

ropd_setup "$extra"

# exec: signals reach the trainer itself, and its exit code is this script's. -P: a folder of the
# caller's that is called `verl` must not hide the installed one.
exec "$ROPD_PYTHON" -P -m ropd_verl.train "$@"
