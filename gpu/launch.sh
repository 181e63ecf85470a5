#!/usr/bin/env bash
# Train on GPU nodes under Slurm: the same command in a process for each GPU, put back into the queue until it is done.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: gpu/launch.sh [--dry-run] start ARGUMENTS OF train.py
       gpu/launch.sh [--dry-run] stop

  start   submit a job that trains, from this folder, which all nodes see with its .venv
  stop    ask the job to save and stop

--dry-run prints the commands and the job's script, and needs no Slurm

variables: JOB (its name, hlm), NODES (1), GPUS (of a node, 8), CPUS (of a GPU, 12), TIME (24:00:00), SBATCH (more options of
sbatch, such as "--partition=h100 --account=me", quoted as for a shell), XLA_FLAGS (flags for the compiler in place of
those in here), XLA_PYTHON_CLIENT_MEM_FRACTION (0.92)

example: NODES=4 SBATCH="--partition=h100" gpu/launch.sh start configs/hat.py:1b --workdir /shared/hat-1b
TEXT
}

fail() {
  echo "launch.sh: $*" >&2
  exit 1
}

dry=
[ "${1:-}" != --dry-run ] || { dry=1 && shift; }
command="${1:-}"
case "$command" in
  start | stop) shift ;;
  "" | -h | --help | help) usage && exit 0 ;;
  *) usage >&2 && fail "no command '$command'" ;;
esac
[ "${1:-}" != --dry-run ] || { dry=1 && shift; } # behind the command is fine, too
[[ " $* " != *" --dry-run "* ]] || fail "--dry-run: write it before the arguments of train.py"
JOB="${JOB:-hlm}" NODES="${NODES:-1}" GPUS="${GPUS:-8}" CPUS="${CPUS:-12}" TIME="${TIME:-24:00:00}"
for name in NODES GPUS CPUS; do
  [[ "${!name}" =~ ^[1-9][0-9]*$ ]] || fail "$name is '${!name}'; it is a number"
done
[[ "$JOB" =~ ^[A-Za-z0-9_.-]+$ ]] || fail "JOB is '$JOB'; use letters, digits, hyphens and dots"
# Collectives run beside matrix products, in few large pieces: see gpu/README.md, which says why.
FLAGS="--xla_gpu_enable_latency_hiding_scheduler=true \
--xla_gpu_enable_pipelined_all_gather=true \
--xla_gpu_enable_pipelined_reduce_scatter=true \
--xla_gpu_enable_pipelined_all_reduce=true"
XLA_FLAGS="${XLA_FLAGS-$FLAGS}"
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
options=$(xargs -r printf '%s\n' <<<"${SBATCH:-}") || fail "SBATCH is '$SBATCH': its quotes do not match"
more=()
[ -z "$options" ] || mapfile -t more <<<"$options"

run() { # or show, so that a shell would read it
  if [ -n "$dry" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

script() {
  cat <<SCRIPT
#!/usr/bin/env bash
export XLA_FLAGS=$(printf '%q' "$XLA_FLAGS") XLA_PYTHON_CLIENT_MEM_FRACTION=$(printf '%q' "${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}")
again=
ask() { scancel --signal=TERM "\$SLURM_JOB_ID"; } # the processes of train.py save after the same step and end
trap 'again=1; ask' USR1                         # two minutes before the time is over
trap ask TERM                                    # a preemption, after which Slurm itself puts the job back
srun .venv/bin/python train.py$(printf ' %q' "$@") --distributed &
step=\$!
wait "\$step" || wait "\$step" # the first wait ends with a signal
status=\$?
[ -z "\$again" ] || scontrol requeue "\$SLURM_JOB_ID"
exit "\$status"
SCRIPT
}

needs() {
  [ -n "$dry" ] || command -v "$1" >/dev/null || fail "$1 is not installed: this is for a login node of a Slurm cluster"
}

case "$command" in
  start)
    [ $# -gt 0 ] || fail "no config: give the arguments of train.py, for example configs/hat.py:1b --workdir /shared/hat-1b"
    [[ " $* " =~ " --workdir"[\ =] ]] || fail "--workdir: give a folder that all nodes see"
    needs sbatch
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    script "$@" >"$scratch/job.sh"
    [ -z "$dry" ] || sed 's/^/# job.sh: /' "$scratch/job.sh"
    run sbatch --job-name="$JOB" --chdir="$repository" --nodes="$NODES" --ntasks-per-node="$GPUS" --gpus-per-node="$GPUS" \
      --cpus-per-task="$CPUS" --time="$TIME" --signal=B:USR1@120 --requeue --open-mode=append --output="$JOB.log" \
      "${more[@]}" "$scratch/job.sh"
    ;;
  stop)
    [ $# -eq 0 ] || fail "stop takes no arguments, got: $*"
    needs scancel
    run scancel --signal=TERM --name="$JOB" --me
    ;;
esac
