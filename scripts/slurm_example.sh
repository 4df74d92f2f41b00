#!/bin/bash
# One run over two nodes with four GPUs each; sent again after its time is over, it goes on where it stopped:
#   sbatch scripts/slurm_example.sh experiment=adaptive/mip
# A sweep or a study of many runs needs no script, the launcher sends a job array itself:
#   replicata study adaptive/mip launcher=slurm hydra.launcher.partition=gpu hydra.launcher.timeout_min=120
#SBATCH --job-name=replicata
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
#SBATCH --output=slurm-%j.txt
set -euo pipefail
source .venv/bin/activate
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export HEAD NODES=$SLURM_JOB_NUM_NODES
srun scripts/multi_node.sh "$@"
