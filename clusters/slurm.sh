#!/usr/bin/env bash
#SBATCH --job-name=fairness
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
# Usage: sbatch clusters/slurm.sh SUITE RESULTS_DIRECTORY [options of run-bench run]
# Ray runs on every node of the allocation, the suite on the first. Submit again to go on: what the time limit cuts off
# loses the epoch it is in, no more.
set -euo pipefail

suite=$1
results=$2
shift 2

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=6379

# whoever reaches a Ray cluster's ports can run code on it, unless it asks for a token; srun hands these to every node
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python3 -c "import secrets; print(secrets.token_hex(32))")
export RAY_AUTH_TOKEN

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
    ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
    run-bench run "$suite" --address auto --results "$results" "$@"
