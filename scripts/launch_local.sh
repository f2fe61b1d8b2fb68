#!/usr/bin/env bash
# Trains in N processes on this machine, for trying things: scripts/launch_local.sh N [ARGUMENT …]
# It starts N times python -m keras_alexnet.fit ARGUMENT …, which meet at free ports of 127.0.0.1 in the way of TensorFlow
# or, with KERAS_BACKEND=jax, of JAX. Worker 0 prints as ever, the lines of the others begin with "[worker 1] ".
# Ctrl-C and SIGTERM go to all. The exit status is that of the first that failed, or 0. Each process sees every GPU.
set -u
if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "Usage: $0 N [ARGUMENT of python -m keras_alexnet.fit …], where N is the number of processes, such as 2" >&2
  exit 2
fi
num_workers=$1
shift
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit
python=$root/.venv/bin/python
[[ -x $python ]] || python=python3
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

# Opened all at once, so that they differ.
addresses=$("$python" -c '
import socket, sys
servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(",".join("127.0.0.1:%d" % server.getsockname()[1] for server in servers))
' "$num_workers") || exit

work() { # worker, arguments
  local worker=$1
  shift
  unset TF_CONFIG KERAS_DISTRIBUTION_JOB_ADDRESSES KERAS_DISTRIBUTION_NUM_PROCESSES KERAS_DISTRIBUTION_PROCESS_ID
  if [[ ${KERAS_BACKEND:-} == jax ]]; then
    export KERAS_DISTRIBUTION_JOB_ADDRESSES=$addresses
    export KERAS_DISTRIBUTION_NUM_PROCESSES=$num_workers KERAS_DISTRIBUTION_PROCESS_ID=$worker
  else
    export TF_CONFIG="{\"cluster\": {\"worker\": [\"${addresses//,/\", \"}\"]},
      \"task\": {\"type\": \"worker\", \"index\": $worker}}"
  fi
  exec "$python" -m keras_alexnet.fit "$@"
}

name_lines() { # worker
  trap '' INT TERM # until the worker has said its last
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    printf '[worker %s] %s\n' "$1" "$line"
  done
}

running=()
forward() {
  kill -s "$1" ${running[@]+"${running[@]}"} 2>/dev/null
}
trap 'forward INT' INT
trap 'forward TERM' TERM

# With job control each worker has a process group of its own, so a terminal's Ctrl-C reaches it once, through the trap;
# without it, what is started in the background would ignore Ctrl-C.
set -m
work 0 "$@" </dev/null &
running+=($!)
for ((worker = 1; worker < num_workers; worker++)); do
  work "$worker" "$@" </dev/null > >(name_lines "$worker") 2> >(name_lines "$worker" >&2) &
  running+=($!)
done
set +m

# Bash 3.2 cannot wait for whichever ends first.
status=0
while ((${#running[@]})); do
  sleep 0.2
  left=()
  for process in "${running[@]}"; do
    if kill -0 "$process" 2>/dev/null; then
      left+=("$process")
    else
      wait "$process"
      ended=$?
      ((status)) || status=$ended
    fi
  done
  running=(${left[@]+"${left[@]}"})
done
exit "$status"
