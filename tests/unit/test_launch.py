"""Launch scripts without what they call: the commands that --dry-run shows, and what is refused."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

TPU = {
    "TPU_NAME": "hat",
    "ZONE": "us-west4-a",
    "PROJECT": "mine",
    "ACCELERATOR": "v5litepod-16",
    "RUNTIME": "v2-alpha-tpuv5-lite",
}
PAIR = {"CLUSTER": "c", "SLICES": "2"}
TRAIN = ["configs/hat.py:1b", "--workdir", "gs://b/hat", 'data.source=TextFiles(paths=("/a b/*",))']


def launched(script, *arguments, status=0, **variables):
    """What a script prints, on a machine that has only the usual programs."""
    kept = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    done = subprocess.run(
        ["bash", str(ROOT / script), *arguments],
        env=kept | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def commands(printed):
    """Each line as a shell would read it."""
    return [shlex.split(line.replace("$'", "'")) for line in printed.splitlines() if line[0] != "#"]


def of_train(line):
    """The arguments of train.py in a line of a shell."""
    words = shlex.split(line)
    return words[words.index("train.py") + 1 :]


def test_a_slice():
    printed = launched("tpu/launch.sh", "--dry-run", "keep", *TRAIN, **TPU)
    found = commands(printed)
    named = [line for line in found if line[:3] == ["gcloud", "compute", "tpus"]]
    assert [line[3:5] for line in named] == [
        ["queued-resources", "create"],
        ["tpu-vm", "scp"],
        ["tpu-vm", "ssh"],
        ["tpu-vm", "scp"],
        ["tpu-vm", "ssh"],
    ]
    for line in named:
        assert {"us-west4-a", "mine"} <= set(line)
    assert {"--accelerator-type=v5litepod-16", "--spot"} <= set(named[0])
    assert all("--worker=all" in line for line in named[1:])
    script = [line.removeprefix("# run.sh: ") for line in printed.splitlines() if line[0] == "#"]
    assert of_train(script[2].rstrip(" &")) == [*TRAIN, "--distributed"]
    assert script[1].startswith("export LIBTPU_INIT_ARGS=--xla_")
    (stop,) = commands(launched("tpu/launch.sh", "--dry-run", "stop", **TPU))
    assert "kill -TERM" in stop[-1]
    (delete,) = commands(launched("tpu/launch.sh", "--dry-run", "delete", **TPU))
    assert delete[3:6] == ["queued-resources", "delete", "hat"]


@pytest.mark.parametrize(
    ("script", "command"),
    [("tpu/launch.sh", name) for name in ("create", "install", "status", "logs", "stop", "delete")]
    + [("tpu/launch.sh", f"{name} {{}}") for name in ("start", "keep", "gke")]
    + [("tpu/launch.sh", "gke-delete"), ("gpu/launch.sh", "start {}"), ("gpu/launch.sh", "stop")],
)
def test_a_dry_run_runs_nothing(script, command, tmp_path):
    """Wherever `--dry-run` stands before the arguments of train.py; behind them it is refused."""
    for name in ("gcloud", "xpk", "sbatch", "scancel"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (tmp_path / name).chmod(0o755)
    variables = TPU | {"CLUSTER": "c", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    name, *rest = command.split()
    given = TRAIN if rest else []
    first = launched(script, "--dry-run", name, *given, **variables)
    second = launched(script, name, "--dry-run", *given, **variables)
    shown = [re.sub(r"/tmp/\S*", "", text) for text in (first, second)]
    assert shown[0] == shown[1]
    assert any(line[0] in ("gcloud", "xpk", "sbatch", "scancel") for line in commands(first))
    if given:
        said = launched(script, name, *given, "--dry-run", status=1, **variables)
        assert "--dry-run: write it before the arguments" in said
    assert not (tmp_path / "ran").exists()


GCLOUD = """#!/usr/bin/env bash
# A slice of one worker, whose home is $WORLD; its Python does what is planned.
cd "$WORLD"
for word; do
  case "$word" in
    --command=*setup.sh*) exit ;;
    --command=*) exec bash -c "${word#--command=}" ;;
    */run.sh) cp "$word" hlm/run.sh ;;
    list) echo ACTIVE ;;
  esac
done
"""
PYTHON = """#!/usr/bin/env bash
next=$(head -n 1 plan)
sed -i 1d plan
echo "planned: $next" >>done
[ "$next" != stop ] || { trap 'exit 1' TERM; while :; do /bin/sleep 0.05; done; }
exit "$next"
"""
SLEEP = """#!/usr/bin/env bash
while [ ! -e "$WORLD/hlm/run.shell" ]; do /bin/sleep 0.02; done
[ "$(cat "$WORLD/hlm/done")" != "planned: stop" ] || PATH=$USUAL "$ROOT/tpu/launch.sh" stop
/bin/sleep 0.1
"""


@pytest.mark.parametrize(
    ("plan", "left", "status", "said"),
    [
        ("0", "", 0, "training is done"),
        ("1 1 0", "", 0, "training is done"),  # a process was lost, twice
        ("1 1 1 0", "0", 1, "training has failed three times within 1800 s"),
        ("stop 0", "0", 0, "training was stopped"),
    ],
)
def test_a_run_is_kept(plan, left, status, said, tmp_path):
    """By the real commands, on a machine that plays the slice and its worker."""
    far = tmp_path / "hlm" / ".venv" / "bin"
    far.mkdir(parents=True)
    here = tmp_path / "bin"
    here.mkdir()
    programs = {far / "python": PYTHON, here / "gcloud": GCLOUD, here / "sleep": SLEEP}
    for file, text in (programs | {here / "git": "#!/bin/sh\n"}).items():
        file.write_text(text)
        file.chmod(0o755)
    (tmp_path / "hlm" / "plan").write_text("\n".join(plan.split()) + "\n")
    path = f"{here}:{os.environ['PATH']}"
    variables = {"PATH": path, "USUAL": path, "WORLD": str(tmp_path), "ROOT": str(ROOT)}
    printed = launched("tpu/launch.sh", "keep", *TRAIN, status=status, **TPU, **variables)
    assert said in printed
    assert (tmp_path / "hlm" / "plan").read_text().split() == left.split()


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_gke(slices):
    more = {1: [], 2: ["mesh.replica=2"], 3: ["mesh.replica=6"]}[slices]
    variables = TPU | {
        "CLUSTER": "c",
        "SLICES": str(slices),
        "LIBTPU_INIT_ARGS": "--xla_a=1 --xla_b=2",
    }
    found = commands(launched("tpu/launch.sh", "--dry-run", "gke", *TRAIN, *more, **variables))
    create = found[-1]
    assert create[:3] == ["xpk", "workload", "create"]
    options = dict(word.removeprefix("--").split("=", 1) for word in create[3:] if "=" in word)
    assert options["cluster"] == "c"
    assert options["workload"] == "hat"
    assert options["tpu-type"] == "v5litepod-16"
    assert options["num-slices"] == str(slices)
    assert options["env"] == "LIBTPU_INIT_ARGS=--xla_a=1 --xla_b=2"
    assert of_train(options["command"]) == [*TRAIN, *more, "--distributed"]
    assert any(word == f"--output={options['script-dir']}.tar" for word in found[1])
    (delete,) = commands(launched("tpu/launch.sh", "--dry-run", "gke-delete", **TPU, CLUSTER="c"))
    assert delete[:5] == ["xpk", "workload", "delete", "--cluster=c", "--workload=hat"]


def test_slurm():
    given = [*TRAIN[:1], "--workdir", "/shared/hat run"]
    more = """--partition=h100 --account='me $HOME' --comment="a b" """
    variables = {"NODES": "2", "GPUS": "4", "SBATCH": more, "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}
    printed = launched("gpu/launch.sh", "--dry-run", "start", *given, **variables)
    (submit,) = commands(printed)
    assert submit[0] == "sbatch"
    wanted = {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--requeue"}
    assert wanted | {"--partition=h100", "--account=me $HOME", "--comment=a b"} <= set(submit)
    assert "--signal=B:USR1@120" in submit
    script = [line.removeprefix("# job.sh: ") for line in printed.splitlines() if line[0] == "#"]
    assert script[1].endswith(" XLA_PYTHON_CLIENT_MEM_FRACTION=0.5")
    (line,) = [line for line in script if line.startswith("srun ")]
    assert of_train(line.rstrip(" &")) == [*given, "--distributed"]
    assert subprocess.run(["bash", "-n"], input="\n".join(script), text=True).returncode == 0
    assert commands(launched("gpu/launch.sh", "--dry-run", "stop"))[0][:2] == [
        "scancel",
        "--signal=TERM",
    ]


PLAYED = r"""
scontrol() { echo "scontrol $*"; }
scancel() { echo "scancel $*"; kill -TERM "$step"; }
srun() { trap 'sleep 0.2; echo saved; exit 3' TERM; echo ready; while :; do sleep 0.05; done; }
SLURM_JOB_ID=7
(sleep 1; kill -%s $$) &
"""


@pytest.mark.parametrize(("signal", "again"), [("USR1", True), ("TERM", False)])
def test_a_job_that_is_told_to_end_waits_for_the_save(signal, again):
    """The script of the job, with functions in place of Slurm's programs."""
    printed = launched("gpu/launch.sh", "--dry-run", "start", *TRAIN)
    script = [line.removeprefix("# job.sh: ") for line in printed.splitlines() if line[0] == "#"]
    text = PLAYED % signal + "\n".join(script)
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=60)
    said = ["ready", "scancel --signal=TERM 7", "saved", *["scontrol requeue 7"] * again]
    assert (done.stdout.splitlines(), done.returncode) == (said, 3)


def test_flags_of_gpus_are_known():
    """To jaxlib, which names the others when it ends. (libtpu reads those of TPUs.)"""
    flags = re.findall(r"--xla_gpu_\w+=true", (ROOT / "gpu/launch.sh").read_text())
    assert len(flags) == 4
    environment = os.environ | {"XLA_FLAGS": " ".join([*flags, "--xla_gpu_no_such_flag=true"])}
    code = [sys.executable, "-c", "import jax; jax.devices()"]
    done = subprocess.run(code, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "Unknown flag" in line]
    assert re.findall(r"--xla_\w+", line) == ["--xla_gpu_no_such_flag"]


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "message"),
    [
        ("tpu/launch.sh", ["keep", *TRAIN], {"TPU_NAME": ""}, "TPU_NAME: a name of your choice"),
        ("tpu/launch.sh", ["keep"], {}, "no config: give the arguments of train.py"),
        ("tpu/launch.sh", ["gke", "a.py:b", "--workdir", "x"], {}, "so it must be at gs://"),
        ("tpu/launch.sh", ["gke", *TRAIN], {}, "CLUSTER: the GKE cluster"),
        ("tpu/launch.sh", ["gke", *TRAIN], {"CLUSTER": "c", "SLICES": "4"}, "add mesh.replica=4"),
        ("tpu/launch.sh", ["gke", *TRAIN], {"CLUSTER": "c", "SLICES": "two"}, "SLICES is 'two'"),
        ("tpu/launch.sh", ["gke", *TRAIN, "mesh.replica=3"], PAIR, "add mesh.replica=2"),
        ("tpu/launch.sh", ["logs"], {"WORKER": "first"}, "WORKER is 'first'"),
        ("tpu/launch.sh", ["keep", *TRAIN], {"SHORT": "1h"}, "SHORT is '1h'"),
        ("tpu/launch.sh", ["fly"], {}, "no command 'fly'"),
        ("gpu/launch.sh", ["start"], {}, "no config: give the arguments of train.py"),
        ("gpu/launch.sh", ["start", "a.py:b"], {}, "--workdir: give a folder that all nodes see"),
        ("gpu/launch.sh", ["start", *TRAIN], {"NODES": "x"}, "NODES is 'x'; it is a number"),
        ("gpu/launch.sh", ["start", *TRAIN], {"JOB": "a b"}, "JOB is 'a b'"),
        ("gpu/launch.sh", ["start", *TRAIN], {"SBATCH": "--x='a"}, "its quotes do not match"),
    ],
)
def test_what_is_refused(script, arguments, variables, message):
    given = (TPU if script.startswith("tpu") else {}) | variables
    assert message in launched(script, "--dry-run", *arguments, status=1, **given)
