#!/bin/bash
# One run over several machines, data parallel: the same line on each of them.
#   HEAD=node1 NODES=2 scripts/multi_node.sh experiment=adaptive/mip
# HEAD is one of the machines, NODES their number, PROCESSES how many on each (unset: one a GPU).
# Code, data and outputs are on a file system that they share. Under SLURM: scripts/slurm_example.sh.
set -euo pipefail
: "${HEAD:?one of the machines}" "${NODES:?number of machines}"
exec torchrun --nnodes="$NODES" --nproc-per-node="${PROCESSES:-gpu}" \
    --rdzv-backend=c10d --rdzv-endpoint="$HEAD:${PORT:-29500}" --rdzv-id="${SLURM_JOB_ID:-replicata}" \
    -m replicata run "$@" accelerator=multi_node trainer.num_nodes="$NODES"
