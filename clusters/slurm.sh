#!/usr/bin/env bash
#SBATCH --job-name=fairness
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
# Usage: sbatch clusters/slurm.sh SUITE RESULTS_DIRECTORY [options of run-bench run]
# from the environment that run-bench is installed in, or with its folder: ENVIRONMENT=~/venv sbatch clusters/slurm.sh ...
# Ray runs on every node of the allocation, the suite on the first. Submit again to go on: what the time limit cuts off
# loses the epoch it is in, no more. Its end stops every Ray of yours on these nodes, which is why it asks for whole ones.
set -euo pipefail

suite=$1
results=$2
shift 2

[ -z "${ENVIRONMENT:-}" ] || source "$ENVIRONMENT/bin/activate"
command -v run-bench >/dev/null || {
    echo "run-bench is not installed here: submit from its environment, or with ENVIRONMENT=FOLDER" >&2
    exit 1
}

# this script runs on the first node, where Ray's head will be: a port that is free there
read -r head <<< "$(scontrol show hostnames "$SLURM_JOB_NODELIST")"  # the first line of several
port=$(python3 -c "import socket; free = socket.socket(); free.bind(('', 0)); print(free.getsockname()[1])")

# whoever reaches a Ray cluster's ports can run code on it, unless it asks for a token; srun hands these to every node
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python3 -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_TOKEN

# srun takes the CPUs of a task from no other place, and Ray would count those of the node, bound to it or not
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_PER_TASK" -- \
    run-bench run "$suite" --address auto --results "$results" "$@"
