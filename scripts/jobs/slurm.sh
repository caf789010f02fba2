#!/bin/bash
# One run as a Slurm job. After a preemption, the time limit or the end of a node it carries on by itself. Yours to edit.
# Submit it from the project's folder, with the environment active; the job's name is the name of the run:
#   sbatch --job-name=first scripts/jobs/slurm.sh data=mnist mode=prod run.budget=20epochs
#   sbatch --job-name=large --nodes=2 --ntasks-per-node=4 --gpus-per-task=1 scripts/jobs/slurm.sh run.accumulate=8 ...
#SBATCH --cpus-per-task=4 --mem-per-cpu=4G --time=04:00:00
#SBATCH --requeue --open-mode=append --signal=B:USR1@120 --output=%x.%j.txt

max_restarts=100 # a job whose time is too short for a single step would otherwise go on for ever
if [ "${SLURM_RESTART_COUNT:-0}" -gt "$max_restarts" ]; then
  echo "restarted $SLURM_RESTART_COUNT times: not again" >&2
  exit 1
fi
# what torch wants to know of the processes; a single one needs none of it
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
process='export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS; exec python src/*/train.py "$@"'
# Slurm sends USR1 to this script, 120 s before the time limit (--signal above). The run saves and ends.
trap 'again=1; kill -USR1 "$step"' USR1
trap : TERM # of a preemption or scancel; Slurm sends it to the run, too
srun --kill-on-bad-exit=1 bash -c "$process" run "$@" "job=$SLURM_JOB_NAME" &
step=$!
while kill -0 "$step" 2> /dev/null; do # a signal ends `wait` early
  wait "$step"
  code=$?
done
if [ -n "$again" ]; then
  scontrol requeue "$SLURM_JOB_ID"
elif [ "$code" -gt 128 ]; then
  # Preempted or cancelled. Slurm queues a preempted job again only if it is still there at the end of the grace time,
  # and takes one that ended before for failed. It ends this script in either case.
  for _ in $(seq 300); do sleep 2; done
fi
exit "$code"
