#!/usr/bin/env bash
# Tries multi-worker training on one machine: scripts/launch_local.sh N [ARGUMENT …]
# Starts N processes of python -m keras_alexnet.fit ARGUMENT …, which connect through free ports of 127.0.0.1: with
# TensorFlow, or with KERAS_BACKEND=jax with JAX. Worker 0 prints as usual; the lines of the others begin with
# "[worker 1] ". Each process sees every GPU.
# SIGINT (Ctrl-C), SIGTERM, SIGHUP and SIGQUIT are forwarded to all workers. If this script is killed, the workers get
# SIGTERM, and after 60 seconds SIGKILL. If a worker fails, the others get 10 seconds to exit by themselves, then
# SIGTERM, and after 20 more seconds SIGKILL. The exit status is that of the first worker that failed, or 0.
set -u
trap 'exit 131' QUIT # until there are workers; Bash would ignore it
if ! [[ ${1:-} =~ ^[1-9][0-9]*$ ]]; then
  echo "Usage: $0 N [ARGUMENT of python -m keras_alexnet.fit …], where N is the number of processes, such as 2" >&2
  exit 2
fi
num_workers=$1
shift
exit_seconds=10 # from the failure of a worker to SIGTERM for the others, which usually detect it sooner themselves
kill_seconds=20 # from there to SIGKILL: without the lost worker the others cannot finish their step
save_seconds=60 # from SIGTERM to SIGKILL when all workers run, and so can finish their step and save a checkpoint

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || exit
python=$root/.venv/bin/python
[[ -x $python ]] || python=python3
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}

# All ports are opened at the same time, so that they differ.
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
  # Registers with stop_orphans first. In Bash 3.2 a subshell cannot find its process id; sh -c can, and exec keeps it.
  exec sh -c 'echo $$ >&3; exec "$@" 3>&-' sh "$python" -m keras_alexnet.fit "$@"
}

name_lines() { # worker
  # Reads until the worker has closed its output, even if nobody reads what is written here.
  trap '' HUP INT QUIT TERM PIPE
  exec 3>&-
  local line
  while IFS= read -r line || [[ -n $line ]]; do
    printf '[worker %s] %s\n' "$1" "$line" 2>/dev/null
  done
}

stop_orphans() {
  # Reads the process ids of the workers, then "finished". If the input ends without it, this script was killed.
  local process workers=()
  while read -r process; do
    [[ $process != finished ]] || return
    workers+=("$process")
  done
  ((${#workers[@]})) || return
  echo "${0##*/}: killed; stopping the workers" >&2 2>/dev/null
  kill -s TERM "${workers[@]}" 2>/dev/null
  local deadline=$((SECONDS + save_seconds))
  while kill -0 "${workers[@]}" 2>/dev/null && ((SECONDS < deadline)); do
    sleep 0.2
  done
  kill -s KILL "${workers[@]}" 2>/dev/null
}

# Only this script keeps the pipe to stop_orphans open; each worker closes its copy after registering. With job control
# stop_orphans has its own process group, so a signal to the group of this script does not reach it.
exec 3> >(
  trap '' HUP INT QUIT TERM PIPE
  set -m
  stop_orphans <&0 >/dev/null &
)

# With job control each worker has its own process group, so Ctrl-C in a terminal reaches it once, through the trap.
# Without job control, background processes ignore Ctrl-C.
running=()
set -m
work 0 "$@" </dev/null &
running[0]=$!
for ((worker = 1; worker < num_workers; worker++)); do
  work "$worker" "$@" </dev/null > >(name_lines "$worker") 2> >(name_lines "$worker" >&2) &
  running[worker]=$!
done
set +m

signaled=
forward() { # signal
  signaled=$1
  kill -s "$1" ${running[@]+"${running[@]}"} 2>/dev/null
}
# Until here a signal ends this script, and stop_orphans ends the workers. A signal that was ignored at the start, such
# as SIGHUP under nohup, stays ignored: Bash does not trap it.
for name in HUP INT QUIT TERM; do
  trap "forward $name" "$name"
done
# Nothing below depends on whether anybody reads the messages.
trap '' PIPE
exec 4>&2 2>/dev/null # Bash would report a killed worker in its own words.
say() { # message
  echo "${0##*/}: $1" >&4
}

# Bash 3.2 cannot wait for the first of several processes to end.
status=0 deadline=0
while ((${#running[@]})); do
  sleep 0.2
  for worker in "${!running[@]}"; do
    kill -0 "${running[worker]}" && continue
    wait "${running[worker]}"
    ended=$?
    unset "running[worker]"
    if ((ended && !status)); then
      status=$ended failed=$worker next_signal=TERM deadline=$((SECONDS + exit_seconds))
      # A killed worker, such as one that the system ended for lack of memory, printed no explanation.
      if ((status > 128)) && [[ -z $signaled ]] && name=$(kill -l "$status"); then
        say "worker $failed ended with status $status (SIG$name)"
      fi
    fi
  done
  if ((status && ${#running[@]} && SECONDS >= deadline)); then
    if [[ $next_signal == TERM ]]; then
      say "worker $failed ended with status $status; stopping the others"
    else
      say "the other workers did not stop within $kill_seconds seconds; killing them"
    fi
    forward "$next_signal"
    next_signal=KILL deadline=$((SECONDS + kill_seconds))
  fi
done
echo finished >&3
exit "$status"
