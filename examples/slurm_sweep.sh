#!/bin/bash
#SBATCH --array=0-7
#SBATCH --exclusive
# sbatch examples/slurm_sweep.sh GRID.toml OUT: eight whole nodes share one sweep in OUT, a folder that all of them see.
# Task 0 begins the sweep, or goes on with it, works too, and makes the table; the others help until no cell is free.
set -eu
grid=$1 out=$2
if [ "${SLURM_ARRAY_TASK_ID:-0}" -eq 0 ]; then
    if [ -e "$out/sweep.json" ]; then exec perstep sweep "$grid" --out "$out" --resume; fi
    exec perstep sweep "$grid" --out "$out" --yes
fi
until [ -e "$out/sweep.json" ]; do sleep 1; done
exec perstep worker "$out"
