#!/usr/bin/env bash
#SBATCH --job-name=ropd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --signal=B:TERM@120
# Trains on the nodes of a Slurm job: starts Ray on each, runs training/train.sh on the first, and
# takes Ray down again. The repository has to lie on a file system that all nodes share.
#
#   sbatch --nodes=2 training/slurm.sh hardware=multinode [overrides]     in the repository's root
#   ROPD_DRYRUN=true bash training/slurm.sh hardware=multinode            show what would run
#
# ROPD_RAY_PORT            port of Ray's head (6379)
# ROPD_RAY_STARTUP_TIMEOUT_S  seconds until all nodes have joined (600)
set -euo pipefail

# Slurm runs a copy of this file from elsewhere: the repository is where the job was submitted.
root=${SLURM_SUBMIT_DIR:-$(dirname -- "${BASH_SOURCE[0]}")/..}
# shellcheck source=training/environment.sh
source "$root/training/environment.sh"
ropd_read_env "$ROPD_ENV_NAMES"

nodes=${SLURM_JOB_NUM_NODES:-2}
port=${ROPD_RAY_PORT:-6379}
if ropd_is_dryrun; then
  head=HEAD
else
  [[ -n ${SLURM_JOB_NODELIST:-} ]] || ropd_die 'this is no Slurm job: start it with sbatch'
  head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  ropd_setup gpu
fi
# Ray's workers have the variables of the process that starts it: all of .env.
with_env=("${ROPD_PYTHON:-python}" -P -m algo.env_file)
on_head=(srun --overlap --nodes=1 --ntasks=1 --nodelist="$head")
on_others=(srun --overlap --nodes=$((nodes - 1)) --ntasks=$((nodes - 1)) --exclude="$head")
start_head=("${on_head[@]}" "${with_env[@]}"
  ray start --head --port="$port" --dashboard-host=127.0.0.1 --block)
start_others=("${on_others[@]}" "${with_env[@]}" ray start --address="$head:$port" --block)
train=("${on_head[@]}" env RAY_ADDRESS="$head:$port" ROPD_EXTRA=gpu
  bash "$ROPD_ROOT/training/train.sh" "$@")

if ropd_is_dryrun; then
  printf '%q ' "${start_head[@]}" && echo
  ((nodes == 1)) || { printf '%q ' "${start_others[@]}" && echo; }
  printf '%q ' "${train[@]}" && echo
  exit 0
fi

"${with_env[@]}" true # a broken .env ends the job here, and not in each of Ray's starts

ray_pids=()
stop() {
  trap '' INT TERM
  trap - EXIT
  ((${#ray_pids[@]} == 0)) || kill -TERM "${ray_pids[@]}" 2>/dev/null || return 0
  wait "${ray_pids[@]}" 2>/dev/null || return 0
}
trap stop EXIT
trap 'stop; exit 130' INT
trap 'stop; exit 143' TERM

"${start_head[@]}" &
ray_pids+=($!)
if ((nodes > 1)); then
  "${start_others[@]}" &
  ray_pids+=($!)
fi

joined() {
  "${on_head[@]}" "$ROPD_PYTHON" -P -c 'import sys, ray
ray.init(sys.argv[1], log_to_driver=False)
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]))' \
    "$head:$port" "$nodes" >/dev/null 2>&1
}
deadline=$((SECONDS + ${ROPD_RAY_STARTUP_TIMEOUT_S:-600}))
until joined; do
  ((SECONDS < deadline)) || ropd_die "not all $nodes nodes joined Ray: see this job's output," \
    'or raise ROPD_RAY_STARTUP_TIMEOUT_S'
  sleep 5
done

# In the background, so that a signal is dealt with at once.
"${train[@]}" &
train_pid=$!
ray_pids=("$train_pid" "${ray_pids[@]}")
wait "$train_pid"
