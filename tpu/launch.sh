#!/usr/bin/env bash
# Train on a TPU pod slice: get one, install, start the same command on every worker, and go on after preemptions.
# shellcheck disable=SC2016 # what stands in single quotes is expanded on the workers
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: tpu/launch.sh COMMAND [arguments of train.py]

  create            ask for the slice (a queued resource) and wait until it is there
  install           send the committed source to every worker and install it
  start ARGUMENTS   start `train.py ARGUMENTS --distributed` on every worker
  keep ARGUMENTS    all of this, again after every preemption, until training is done
  status            state of the slice and of the run
  logs              follow the log of a worker (WORKER, 0 by default)
  stop              ask the run to save and stop
  delete            give the slice back

variables: TPU_NAME ZONE PROJECT ACCELERATOR RUNTIME; optional: CAPACITY (spot, reserved or on-demand; spot by default),
WORKER (0), POLL (seconds between looks, 60)

example: TPU_NAME=hat ZONE=us-west4-a PROJECT=my-project ACCELERATOR=v5litepod-16 RUNTIME=v2-alpha-tpuv5-lite \
    tpu/launch.sh keep configs/hat.py:1b --workdir gs://my-bucket/hat-1b
TEXT
}

fail() {
  echo "launch.sh: $*" >&2
  exit 1
}

command="${1:-}"
case "$command" in
  create | install | start | keep | status | logs | stop | delete) shift ;;
  "" | -h | --help | help) usage && exit 0 ;;
  *) usage >&2 && fail "no command '$command'" ;;
esac

: "${TPU_NAME:?a name of your choice for the slice}" "${ZONE:?for example us-west4-a}" "${PROJECT:?the Google Cloud project}"
CAPACITY="${CAPACITY:-spot}"
WORKER="${WORKER:-0}"
POLL="${POLL:-60}"
[[ "$TPU_NAME" =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || fail "TPU_NAME is '$TPU_NAME'; use lower-case letters, digits and hyphens"
where=(--zone "$ZONE" --project "$PROJECT" --quiet)
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
case "$CAPACITY" in
  spot | reserved) capacity=("--$CAPACITY") ;;
  on-demand) capacity=() ;;
  *) fail "CAPACITY is '$CAPACITY'; it is spot, reserved or on-demand" ;;
esac
[[ "$POLL" =~ ^[1-9][0-9]*$ ]] || fail "POLL is '$POLL'; it is a number of seconds"
command -v gcloud >/dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"

state() { # of the queued resource; ABSENT if there is none
  local found
  if found=$(gcloud compute tpus queued-resources list "${where[@]}" --filter="name~/$TPU_NAME\$" --format='value(state.state)'); then
    echo "${found:-ABSENT}"
  else
    echo UNKNOWN # no answer this time
  fi
}

on_worker() { # WORKER COMMAND
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" "${where[@]}" --worker="$1" --command="$2"
}

create() { # 1: the request has failed
  : "${ACCELERATOR:?the slice, for example v5litepod-16, v5p-128, v6e-64}" "${RUNTIME:?its software, see tpu/README.md}"
  local now
  now=$(state)
  if [ "$now" = ABSENT ]; then
    gcloud compute tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" "${where[@]}" \
      --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" "${capacity[@]}" || fail "the request was refused"
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
  gcloud compute tpus queued-resources delete "$TPU_NAME" "${where[@]}" --force
}

install() {
  [ -z "$(git -C "$repository" status --porcelain --untracked-files=no)" ] || echo "note: changes that are not committed are not sent" >&2
  git -C "$repository" archive --format=tar.gz --output="$scratch/hlm.tar.gz" HEAD &&
    gcloud compute tpus tpu-vm scp "$scratch/hlm.tar.gz" "$TPU_NAME:hlm.tar.gz" "${where[@]}" --worker=all &&
    on_worker all 'mkdir -p hlm && tar -xzf hlm.tar.gz -C hlm && bash hlm/tpu/setup.sh'
}

check_arguments() {
  [ $# -gt 0 ] || fail "no config: give the arguments of train.py, for example configs/hat.py:1b --workdir gs://my-bucket/hat-1b"
  [[ " $* " =~ " --workdir"[\ =]"gs://" ]] || fail "--workdir: the workers share it, so it must be at gs://"
}

start() {
  cat >"$scratch/run.sh" <<RUN
.venv/bin/python train.py$(printf ' %q' "$@") --distributed &
echo \$! >run.pid
wait \$!
echo \$? >run.status
RUN
  gcloud compute tpus tpu-vm scp "$scratch/run.sh" "$TPU_NAME:hlm/run.sh" "${where[@]}" --worker=all &&
    on_worker all 'cd hlm && if [ -e run.pid ] && kill -0 "$(cat run.pid)" 2>/dev/null; then echo "already running"; else
      rm -f run.status run.pid; nohup setsid bash run.sh >>run.log 2>&1 </dev/null & fi'
}

run_state() { # of worker 0: running, lost (never started, or the machine started anew), or the exit status
  on_worker 0 'cd hlm 2>/dev/null || { echo lost; exit; }; if [ -e run.status ]; then cat run.status
    elif [ -e run.pid ] && kill -0 "$(cat run.pid)" 2>/dev/null; then echo running; else echo lost; fi'
}

watch() { # 0: training is done; 1: it failed; 2: the slice is gone; 3: it has to be started again
  local run failures=0
  while sleep "$POLL"; do
    case "$(state)" in
      ACTIVE | UNKNOWN) ;;
      *) return 2 ;;
    esac
    run=$(run_state) || continue # a worker that cannot be reached: look again
    case "$run" in
      0) return 0 ;;
      running) failures=0 ;;
      lost) return 3 ;;
      *) failures=$((failures + 1)) ;; # stopped by a preemption? then the slice will soon be gone
    esac
    [ "$failures" -lt 5 ] || return 1
  done
}

keep() {
  local outcome tries=0
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
    tries=0 outcome=0
    watch || outcome=$?
    case "$outcome" in
      0) echo "training is done; the slice is still there" && return ;;
      1) on_worker 0 'tail -n 50 hlm/run.log' && fail "training failed, its log is above; the slice is still there" ;;
      *) echo "$(date '+%F %T') preempted or restarted: starting again" ;;
    esac
  done
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
case "$command" in
  start | keep) check_arguments "$@" ;;
  *) [ $# -eq 0 ] || fail "$command takes no arguments, got: $*" ;;
esac
case "$command" in
  create) create || fail "the request has failed: delete it and create it again (keep does so)" ;;
  status)
    now=$(state)
    echo "slice: $now"
    [ "$now" != ACTIVE ] || echo "run: $(run_state)"
    ;;
  logs) on_worker "$WORKER" 'tail -n 100 -F hlm/run.log' ;;
  stop) on_worker all 'kill -TERM "$(cat hlm/run.pid)"' ;;
  *) "$command" "$@" ;;
esac
