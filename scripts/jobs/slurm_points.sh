#!/bin/bash
# The points of a sweep as one array job, each as slurm.sh trains a run. Yours to edit. scripts/sweep.py submits it:
#   python scripts/sweep.py lr --with scripts/jobs/slurm_points.sh data=digits mode=prod optimizer.lr=1e-3,3e-3
#SBATCH --cpus-per-task=4 --mem-per-cpu=4G --time=04:00:00
##SBATCH --gpus-per-task=1 --partition=NAME
#SBATCH --requeue --open-mode=append --signal=B:USR1@120

folder=$1 # of the sweep; what follows are words of this place, which win over those of points.txt
shift
eval "point=($(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$folder/points.txt"))"
SLURM_JOB_NAME=job$SLURM_ARRAY_TASK_ID
. scripts/jobs/slurm.sh "${point[@]}" "$@" "paths.output=$folder"
