#!/usr/bin/env bash
# Serves a local judge with vLLM behind the OpenAI API, in an environment of its own (.venv-judge),
# because verl pins an older vLLM. Ends when vLLM ends; SIGINT and SIGTERM end both.
#
#   ROPD_JUDGE_MODEL_PATH=Qwen/Qwen3-30B-A3B-Instruct-2507 bash training/launch_judge_vllm.sh [...]
#   ROPD_DRYRUN=true ... bash training/launch_judge_vllm.sh     print the command, start nothing
#
# ROPD_JUDGE_MODEL_PATH            folder or Hugging Face name; the only variable without a default
# ROPD_JUDGE_SERVED_MODEL_NAME     name that requests use (the last part of the path)
# ROPD_JUDGE_HOST, _PORT           where it listens (127.0.0.1, 8000); elsewhere it demands a key
# ROPD_JUDGE_API_KEY               key that requests must bring (none)
# ROPD_JUDGE_TENSOR_PARALLEL_SIZE  GPUs that share one copy of the model (1)
# ROPD_JUDGE_DATA_PARALLEL_SIZE    copies of the model (1)
# ROPD_JUDGE_MAX_MODEL_LEN         context window (computed below)
# ROPD_JUDGE_STARTUP_TIMEOUT_S     seconds until it must answer (1800)
# ROPD_JUDGE_VLLM_VERSION          version of vLLM (0.32.0)
#
# The variables, and those of vLLM and Hugging Face, may stand in .env. Arguments are passed on to `vllm serve`.
set -euo pipefail

# shellcheck source=training/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
ropd_read_env "$ROPD_ENV_NAMES|HF_[A-Z_]+|VLLM_[A-Z_]+"

# One judge prompt holds a question and the answers of all teachers and students.
answers=$((4 + 8)) answer_tokens=8192 question_tokens=2048
frame_tokens=8192 # template, rubric, fences
reply_tokens=8192 # thinking included
context=$((answers * answer_tokens + question_tokens + frame_tokens + reply_tokens))

[[ -n ${ROPD_JUDGE_MODEL_PATH:-} ]] ||
  ropd_die 'ROPD_JUDGE_MODEL_PATH is not set: set it to the judge model (folder or name)'
model=$ROPD_JUDGE_MODEL_PATH
name=${ROPD_JUDGE_SERVED_MODEL_NAME:-$(basename -- "$model")}
host=${ROPD_JUDGE_HOST:-127.0.0.1} port=${ROPD_JUDGE_PORT:-8000}
version=${ROPD_JUDGE_VLLM_VERSION:-0.32.0}

# A server that listens everywhere is asked through the loopback interface.
case $host in
  127.* | localhost) reach=$host ;;
  ::1) reach='[::1]' ;;
  *)
    [[ -n ${ROPD_JUDGE_API_KEY:-} ]] ||
      ropd_die "ROPD_JUDGE_HOST=$host opens the judge to other machines: set ROPD_JUDGE_API_KEY"
    case $host in
      0.0.0.0) reach=127.0.0.1 ;;
      ::) reach='[::1]' ;;
      *:*) reach="[$host]" ;;
      *) reach=$host ;;
    esac
    ;;
esac
base_url=http://$reach:$port/v1

command=(vllm serve "$model" --served-model-name "$name" --host "$host" --port "$port"
  --tensor-parallel-size "${ROPD_JUDGE_TENSOR_PARALLEL_SIZE:-1}"
  --data-parallel-size "${ROPD_JUDGE_DATA_PARALLEL_SIZE:-1}"
  --max-model-len "${ROPD_JUDGE_MAX_MODEL_LEN:-$context}"
  --enable-prefix-caching "$@")

if ropd_is_dryrun; then
  printf '%q ' "${command[@]}"
  printf '\n# vllm %s, %s, key: %s\n' "$version" "$base_url" \
    "${ROPD_JUDGE_API_KEY:+from ROPD_JUDGE_API_KEY}"
  exit 0
fi

install_vllm() {
  ropd_pip_install "$1" "vllm==$version" ||
    ropd_die "vLLM $version could not be installed (see above): ROPD_JUDGE_VLLM_VERSION chooses another"
}
if [[ ${ROPD_SKIP_SETUP:-} != 1 ]]; then
  venv=$ROPD_ROOT/.venv-judge
  ropd_ensure "$venv" "vllm==$version in $ROPD_ROOT" install_vllm
  export PATH="$venv/bin:$PATH"
fi

# By environment, not by argument: a process list shows arguments to everyone.
[[ -z ${ROPD_JUDGE_API_KEY:-} ]] || export VLLM_API_KEY=$ROPD_JUDGE_API_KEY

# vLLM gets a process group of its own (set -m), which is ended as a whole.
stop() {
  trap '' INT TERM
  trap - EXIT
  kill -TERM -- "-$server" 2>/dev/null || return 0
  for ((tenths = 0; tenths < 300; tenths++)); do
    kill -0 -- "-$server" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL -- "-$server" 2>/dev/null || return 0
}
set -m
"${command[@]}" &
server=$!
set +m
trap stop EXIT
trap 'stop; exit 130' INT
trap 'stop; exit 143' TERM

python "$ROPD_ROOT/training/judge_ready.py" "$base_url" "$name" --server-pid "$server" \
  --timeout "${ROPD_JUDGE_STARTUP_TIMEOUT_S:-1800}" &
wait $! || exit 1

# What the run has to be told, quoted for the shell: the context where it is not the default.
key=
settings=("ROPD_VLLM_BASE_URL=$base_url" "ROPD_VLLM_MODEL=$name")
[[ ${ROPD_JUDGE_MAX_MODEL_LEN:-$context} == "$context" ]] ||
  settings+=("ROPD_JUDGE_MAX_MODEL_LEN=$ROPD_JUDGE_MAX_MODEL_LEN")
[[ -z ${ROPD_JUDGE_API_KEY:-} ]] ||
  key='; and, with the same ROPD_JUDGE_API_KEY, ropd.judge.rubricator.api_key_env=ROPD_JUDGE_API_KEY'
ropd_say "the judge answers; for judge=local_vllm:$(printf ' %q' "${settings[@]}")$key"
wait "$server"
