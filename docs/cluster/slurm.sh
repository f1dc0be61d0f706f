#!/bin/bash
# posttrain on the nodes of a Slurm allocation: sbatch --nodes N slurm.sh FILE [key=value ...]
# Wants an environment with posttrain that all nodes see, active when sbatch is called.
#SBATCH --job-name=posttrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --no-kill
#SBATCH --signal=B:TERM@300
# (--no-kill: one node's end is not the end of the run. --signal: five minutes to save.)
set -euo pipefail

file=${1:?usage: sbatch slurm.sh FILE [key=value ...]}
shift
runs=${RUNS:-$PWD/runs} # all nodes have to see it

export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1 # a process without a GPU sees none
export RAY_worker_niceness=0 RAY_task_events_report_interval_ms=0
export RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1
# Others are on the network too, and whoever reaches Ray can run code as you.
ray get-auth-token --generate >/dev/null
export RAY_AUTH_MODE=token

# This script runs on the first node, and so does the head.
head=$(hostname -I | cut -d ' ' -f 1)
address=$head:$((20000 + SLURM_JOB_ID % 10000))
cpus=${SLURM_CPUS_ON_NODE:-$(nproc)}
srun --overlap --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" \
  ray start --head --node-ip-address="$head" --port="${address#*:}" --num-cpus="$cpus" \
  --dashboard-host=127.0.0.1 --block &
count_nodes() {
  python - "$address" <<'PYTHON' 2>/dev/null || echo 0
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
print(sum(node["Alive"] for node in ray.nodes()))
PYTHON
}
wait_for_nodes() { # up to five minutes
  for _ in $(seq 60); do
    [ "$(count_nodes)" -ge "$1" ] && return
    sleep 5
  done
  echo "of $1 Ray nodes $(count_nodes) came up within 5 minutes at $address" >&2
  exit 1
}
wait_for_nodes 1
if [ "$SLURM_NNODES" -gt 1 ]; then
  srun --overlap --kill-on-bad-exit=0 --nodes=$((SLURM_NNODES - 1)) \
    --ntasks=$((SLURM_NNODES - 1)) --exclude="$SLURMD_NODENAME" \
    ray start --address="$address" --num-cpus="$cpus" --block &
fi
wait_for_nodes "$SLURM_NNODES"

posttrain run "$file" "$@" --address "$address" --runs-dir "$runs" &
run=$!
trap 'kill -TERM $run' TERM
code=0
wait $run || code=$?
if kill -0 $run 2>/dev/null; then # the signal ended the wait, not the run: it saves
  code=0
  wait $run || code=$?
fi
exit $code
