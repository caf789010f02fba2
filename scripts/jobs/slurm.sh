#!/bin/bash
# One run as a Slurm job. The 120 s of --signal must be longer than the longest step, evaluation or rollout.
# After a preemption, the time limit or the end of a node the job carries on by itself. Yours to edit.
# Submit it from the project's folder, with the environment active; the job's name is the name of the run:
#   sbatch --job-name=first scripts/jobs/slurm.sh data=mnist mode=prod run.budget=20epochs
#   sbatch --job-name=large --nodes=2 --ntasks-per-node=4 --gpus-per-task=1 scripts/jobs/slurm.sh run.accumulate=8 ...
#SBATCH --cpus-per-task=4 --mem-per-cpu=4G --time=04:00:00
# Without a GPU the run trains on the CPU, in float32, until it ends. With one # less, the next line asks for one:
##SBATCH --gpus-per-task=1 --partition=NAME
#SBATCH --requeue --open-mode=append --signal=B:USR1@120 --output=%x.%j.txt

again= step= # the environment of sbatch may have such names, too
# Slurm sends USR1 to this script, 120 s before the time limit (--signal above). The run saves and ends.
trap 'again=1; [ -z "$step" ] || kill -USR1 "$step"' USR1
trap : TERM # of a preemption or scancel; Slurm sends it to the run, too
max_restarts=100 # a job whose time is too short for a single step would otherwise go on for ever
if [ "${SLURM_RESTART_COUNT:-0}" -gt "$max_restarts" ]; then
  echo "restarted $SLURM_RESTART_COUNT times: not again" >&2
  exit 1
fi
# what torch wants to know of the processes; a single one needs none of it
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
process='export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS; exec python src/*/train.py "$@"'
cpus=${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK} # srun does not inherit it
# Where one process fails, the others end by themselves, and srun passes on its exit code. One that hangs is stopped
# after a minute, with code 143.
srun $cpus --kill-on-bad-exit=0 --wait=60 bash -c "$process" run "$@" "job=$SLURM_JOB_NAME" &
step=$!
[ -z "$again" ] || kill -USR1 "$step" # it came before
wait "$step"
code=$?
while kill -0 "$step" 2> /dev/null; do # a signal ended `wait` early
  wait "$step"
  code=$?
done
if [ -n "$again" ]; then
  scontrol requeue "$SLURM_JOB_ID"
elif [ "$code" = 143 ] || [ "$code" = 138 ] || [ "$code" = 134 ]; then
  # The codes that a stop leaves: SIGTERM, USR1, or SIGABRT of a process whose partner has ended. The job is preempted
  # or cancelled. Slurm queues a preempted job again only if it is still there at the end of the grace time, and takes
  # one that ended before for failed. It ends this script in either case. Other codes above 128 are crashes (137: out of
  # memory, 139: segmentation fault).
  for _ in $(seq 300); do sleep 2; done
fi
exit "$code"
