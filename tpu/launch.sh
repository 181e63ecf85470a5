#!/usr/bin/env bash
# Train on a TPU pod slice: get one, install, start the same command on every worker, and go on after preemptions.
# shellcheck disable=SC2016 # what stands in single quotes is expanded on the workers
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tpu/launch.sh [--dry-run] COMMAND [arguments of train.py]

--dry-run prints the commands that it would run, and needs neither gcloud nor xpk

  create            ask for the slice (a queued resource) and wait until it is there
  install           send the committed source to every worker and install it
  start ARGUMENTS   start `train.py ARGUMENTS --distributed` on every worker
  keep ARGUMENTS    all of this, again after every preemption or failure, until training is done
  status            state of the slice and of the run
  logs              follow the log of a worker (WORKER, 0 by default)
  stop              ask the run to save and stop
  delete            give the slice back
  gke ARGUMENTS     as `keep`, as a workload of xpk on the GKE cluster CLUSTER, on SLICES slices
  gke-delete        end that workload

variables: TPU_NAME ZONE PROJECT ACCELERATOR RUNTIME; optional: CAPACITY (spot, reserved or on-demand; spot by default),
WORKER (0), POLL (seconds between looks, 60), SHORT (seconds; runs that fail sooner than that three times in a row are not
started again, 1800), LIBTPU_INIT_ARGS (flags for the compiler in place of those in here);
for gke: CLUSTER; optional: SLICES (1), RESTARTS (100), IMAGE (python:3.12-slim)

example: TPU_NAME=hat ZONE=us-west4-a PROJECT=my-project ACCELERATOR=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite \
    tpu/launch.sh keep configs/hat.py:1b --workdir gs://my-bucket/hat-1b
TEXT
}

fail() {
  echo "launch.sh: $*" >&2
  exit 1
}

# What runs beside the matrix products: see tpu/README.md, which says why. libtpu refuses a flag that it does not know.
FLAGS="--xla_tpu_enable_async_collective_fusion=true \
--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true \
--xla_tpu_enable_async_collective_fusion_multiple_steps=true \
--xla_tpu_overlap_compute_collective_tc=true \
--xla_enable_async_all_gather=true"
LIBTPU_INIT_ARGS="${LIBTPU_INIT_ARGS-$FLAGS}"

dry=
[ "${1:-}" != --dry-run ] || { dry=1 && shift; }
command="${1:-}"
case "$command" in
  create | install | start | keep | status | logs | stop | delete | gke | gke-delete) shift ;;
  "" | -h | --help | help) usage && exit 0 ;;
  *) usage >&2 && fail "no command '$command'" ;;
esac
[ "${1:-}" != --dry-run ] || { dry=1 && shift; } # behind the command is fine, too
[[ " $* " != *" --dry-run "* ]] || fail "--dry-run: write it before the arguments of train.py"

: "${TPU_NAME:?a name of your choice for the slice}" "${ZONE:?for example us-west4-a}" "${PROJECT:?the Google Cloud project}"
CAPACITY="${CAPACITY:-spot}"
WORKER="${WORKER:-0}"
POLL="${POLL:-60}"
SHORT="${SHORT:-1800}"
[[ "$TPU_NAME" =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || fail "TPU_NAME is '$TPU_NAME'; use lower-case letters, digits and hyphens"
where=(--zone "$ZONE" --project "$PROJECT" --quiet)
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
case "$CAPACITY" in
  spot | reserved) capacity=("--$CAPACITY") ;;
  on-demand) capacity=() ;;
  *) fail "CAPACITY is '$CAPACITY'; it is spot, reserved or on-demand" ;;
esac
for name in POLL SHORT; do
  [[ "${!name}" =~ ^[1-9][0-9]*$ ]] || fail "$name is '${!name}'; it is a number of seconds"
done
[[ "$WORKER" =~ ^[0-9]+$ ]] || fail "WORKER is '$WORKER'; it is the number of a worker"
needs() { # PROGRAM WHERE
  [ -n "$dry" ] || command -v "$1" >/dev/null || fail "$1 is not installed: $2"
}

run() { # or show, so that a shell would read it
  if [ -n "$dry" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

pretended=ABSENT # the slice of a dry run
listing=(gcloud compute tpus queued-resources list "${where[@]}" --filter="name~/$TPU_NAME\$" --format='value(state.state)')
state() { # of the queued resource; ABSENT if there is none
  local found
  [ -z "$dry" ] || { echo "$pretended" && return; }
  if found=$("${listing[@]}"); then
    echo "${found:-ABSENT}"
  else
    echo UNKNOWN # no answer this time
  fi
}

on_worker() { # WORKER COMMAND
  run gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker="$1" --command="$2"
}

create() { # 1: the request has failed
  : "${ACCELERATOR:?the slice, for example v5litepod-16, v5p-128, v6e-64}" "${RUNTIME:?its software, see tpu/README.md}"
  local now
  now=$(state)
  if [ "$now" = ABSENT ]; then
    run gcloud compute tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" "${where[@]}" \
      --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" "${capacity[@]}" || fail "the request was refused"
    pretended=ACTIVE
    now=$(state)
  fi
  until [ "$now" = ACTIVE ]; do
    echo "$(date '+%F %T') the slice is $now" >&2
    case "$now" in
      FAILED | SUSPENDING | SUSPENDED | DELETING) return 1 ;;
    esac
    sleep "$POLL"
    now=$(state)
  done
}

delete() {
  run gcloud compute tpus queued-resources delete "$TPU_NAME" "${where[@]}" --force
}

install() {
  [ -z "$(git -C "$repository" status --porcelain --untracked-files=no)" ] || echo "note: changes that are not committed are not sent" >&2
  run git -C "$repository" archive --format=tar.gz --output="$scratch/hlm.tar.gz" HEAD &&
    run gcloud compute tpus tpu-vm scp "$scratch/hlm.tar.gz" "$TPU_NAME:hlm.tar.gz" "${where[@]}" --worker=all &&
    on_worker all 'mkdir -p hlm && tar -xzf hlm.tar.gz -C hlm && bash hlm/tpu/setup.sh'
}

check_arguments() {
  [ $# -gt 0 ] || fail "no config: give the arguments of train.py, for example configs/hat.py:1b --workdir gs://my-bucket/hat-1b"
  [[ " $* " =~ " --workdir"[\ =]"gs://" ]] || fail "--workdir: the workers share it, so it must be at gs://"
}

start() {
  cat >"$scratch/run.sh" <<RUN
echo \$\$ >run.shell # it lives until the status is written
export LIBTPU_INIT_ARGS=$(printf '%q' "$LIBTPU_INIT_ARGS")
.venv/bin/python train.py$(printf ' %q' "$@") --distributed &
echo \$! >run.pid
wait \$!
echo \$? >run.status
RUN
  [ -z "$dry" ] || sed 's/^/# run.sh: /' "$scratch/run.sh"
  run gcloud compute tpus tpu-vm scp "$scratch/run.sh" "$TPU_NAME:hlm/run.sh" "${where[@]}" --worker=all &&
    on_worker all 'cd hlm && if [ ! -e run.status ] && [ -e run.shell ] && kill -0 "$(cat run.shell)" 2>/dev/null; then echo "already running"; else
      rm -f run.status run.shell run.pid run.stop; nohup setsid bash run.sh >>run.log 2>&1 </dev/null & fi'
}

look='cd hlm 2>/dev/null || { echo lost; exit; }; if [ -e run.status ]; then
    if [ -e run.stop ] && [ "$(cat run.status)" != 0 ]; then echo stopped; else cat run.status; fi
    elif [ -e run.shell ] && kill -0 "$(cat run.shell)" 2>/dev/null; then echo running; else echo lost; fi'
run_state() { # of worker 0: running, lost (never started, or the machine started anew), stopped, or the exit status
  [ -z "$dry" ] || { echo lost && return; }
  on_worker 0 "$look"
}

watch() { # 0: training is done; 1: it failed; 2: the slice is gone; 3: it has to be started again; 4: it was told to stop
  local now failures=0
  [ -z "$dry" ] || return 0
  while sleep "$POLL"; do
    case "$(state)" in
      ACTIVE | UNKNOWN) ;;
      *) return 2 ;;
    esac
    now=$(run_state) || continue # a worker that cannot be reached: look again
    case "$now" in
      0) return 0 ;;
      running) failures=0 ;;
      lost) return 3 ;;
      stopped) return 4 ;;
      *) failures=$((failures + 1)) ;; # stopped by a preemption? then the slice will soon be gone
    esac
    [ "$failures" -lt 5 ] || return 1
  done
}

keep() {
  local outcome began tries=0 short=0
  while :; do
    case "$(state)" in
      FAILED | SUSPENDING | SUSPENDED) delete ;;
      DELETING | UNKNOWN) sleep "$POLL" && continue ;;
    esac
    create || continue
    if [ "$(run_state)" != running ] && ! { install && start "$@"; }; then
      tries=$((tries + 1))
      [ "$tries" -lt 3 ] || fail "install and start have failed three times; the slice is still there"
      sleep "$POLL" && continue
    fi
    tries=0 outcome=0 began=$SECONDS
    watch || outcome=$?
    case "$outcome" in
      0) echo "training is done; the slice is still there" && return ;;
      1) # a lost process ends all others; what fails at once will do so again
        on_worker 0 'tail -n 50 hlm/run.log' || true
        short=$((SECONDS - began < SHORT ? short + 1 : 0))
        [ "$short" -lt 3 ] || fail "training has failed three times within $SHORT s, its log is above; the slice is still there"
        echo "$(date '+%F %T') training failed, its log is above: starting again"
        ;;
      4) echo "training was stopped; the slice is still there" && return ;;
      *) echo "$(date '+%F %T') preempted or restarted: starting again" ;;
    esac
  done
}

gke() { # xpk starts the pods again after a preemption, and so does train.py, which goes on where it was
  : "${CLUSTER:?the GKE cluster, made by xpk cluster create}" "${ACCELERATOR:?the slice, for example v5litepod-16, v5p-128, v6e-64}"
  local slices="${SLICES:-1}"
  [[ "$slices" =~ ^[1-9][0-9]*$ ]] || fail "SLICES is '$slices'; it is a number of slices"
  if [ "$slices" != 1 ]; then
    [[ " $* " =~ " mesh.replica="([1-9][0-9]*)" " ]] && [ $((BASH_REMATCH[1] % slices)) = 0 ] ||
      fail "SLICES is $slices: add mesh.replica=$slices, so that a whole copy of the weights is in each"
  fi
  run mkdir "$scratch/hlm"
  run git -C "$repository" archive --format=tar --output="$scratch/hlm.tar" HEAD
  run tar -xf "$scratch/hlm.tar" -C "$scratch/hlm"
  run xpk workload create --cluster="$CLUSTER" --workload="$TPU_NAME" --zone="$ZONE" --project="$PROJECT" \
    --tpu-type="$ACCELERATOR" --num-slices="$slices" --max-restarts="${RESTARTS:-100}" --restart-on-user-code-failure \
    --termination-grace-period-seconds=120 --base-docker-image="${IMAGE:-python:3.12-slim}" --script-dir="$scratch/hlm" \
    --env=LIBTPU_INIT_ARGS="$LIBTPU_INIT_ARGS" \
    --command="bash tpu/setup.sh && exec .venv/bin/python train.py$(printf ' %q' "$@") --distributed"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
case "$command" in
  start | keep | gke) check_arguments "$@" ;;
  *) [ $# -eq 0 ] || fail "$command takes no arguments, got: $*" ;;
esac
case "$command" in
  gke | gke-delete) needs xpk "pip install xpk" ;;
  *) needs gcloud https://cloud.google.com/sdk/docs/install ;;
esac
case "$command" in
  gke-delete) run xpk workload delete --cluster="${CLUSTER:?the GKE cluster}" --workload="$TPU_NAME" --zone="$ZONE" --project="$PROJECT" ;;
  create) create || fail "the request has failed: delete it and create it again (keep does so)" ;;
  status)
    [ -z "$dry" ] || { run "${listing[@]}" && on_worker 0 "$look" && exit; }
    now=$(state)
    echo "slice: $now"
    [ "$now" != ACTIVE ] || echo "run: $(run_state)"
    ;;
  logs) on_worker "$WORKER" 'tail -n 100 -F hlm/run.log' ;;
  stop) on_worker all 'touch hlm/run.stop && kill -TERM "$(cat hlm/run.pid)"' ;;
  *) "$command" "$@" ;;
esac
