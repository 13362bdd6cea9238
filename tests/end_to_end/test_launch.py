"""`llmanac launch slurm`: what it writes, run by stand-ins for srun and scontrol that honour Slurm's variables."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from _builds import small_recipe, text

from llmanac.cli import main
from llmanac.core.files import cache_folder
from llmanac.train.checkpoint import Checkpoints
from llmanac.train.metrics import read_metrics

STEPS = 200
RECIPE = small_recipe(STEPS, 100, "micro_batch = 4")
# one task for each machine, with Slurm's variables of a task; what ends srun ends them
SRUN = """#!/bin/bash
set -m
shift  # --kill-on-bad-exit=1
for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do
    SLURM_NODEID=$node SLURM_PROCID=$node "$@" & tasks+=($!)
done
trap 'for task in "${tasks[@]}"; do kill -TERM -- "-$task"; done' TERM
status=0
for task in "${tasks[@]}"; do
    while kill -0 "$task" 2> /dev/null; do wait "$task"; done
    wait "$task" || status=1
done
exit $status
"""
SCONTROL = """#!/bin/bash
case "$1" in
    show) tr ',' '\\n' <<< "$3" ;;
    requeue) echo "$2" >> requeued ;;
esac
"""


def launched(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["launch", "slurm", "small.toml", *arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the recipe, its text and the stand-ins."""
    rng = random.Random(0)
    (tmp_path / "text").mkdir()
    for n in range(12):
        (tmp_path / "text" / f"{n}.txt").write_text("\n\n".join(f"{text(rng, 60)}." for _ in range(12)))
    (tmp_path / "small.toml").write_text(RECIPE)
    (tmp_path / "bin").mkdir()
    torchrun = f"""#!/bin/bash\nexec {sys.executable} -m torch.distributed.run "$@"\n"""
    for name, program in (("srun", SRUN), ("scontrol", SCONTROL), ("torchrun", torchrun)):
        (tmp_path / "bin" / name).write_text(program)
        (tmp_path / "bin" / name).chmod(stat.S_IRWXU)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_file_has_machines_processes_mesh_and_folder(place, capsys):
    assert not launched("--nodes", "4", "--processes", "8", "-s", "train.batch_tokens=2048")
    written = (place / "small.sbatch").read_text()
    assert "sbatch small.sbatch" in capsys.readouterr().out
    for line in ("--nodes=4", "--gpus-per-node=8", "--ntasks-per-node=1", "--requeue", "--signal=B:TERM@120"):
        assert f"#SBATCH {line}\n" in written
    assert "SHUTDOWN_TIMEOUT=110\n" in written and '"$first:$port"' in written and "SLURM_JOB_ID % " in written
    assert "--nproc-per-node 8 " in written and "-s train.batch_tokens=2048 -s parallel.data=32 " in written
    assert "--folder=runs/small " in written
    assert subprocess.run(["bash", "-n", "small.sbatch"]).returncode == 0
    mesh = ["-s", "parallel.data=8", "-s", "parallel.tensor=2", "-o", "two"]
    assert not launched("--nodes", "2", "--processes", "8", "--cpu", "--folder", "it's", *mesh)
    written = (place / "two").read_text()
    assert "gpus" not in written and "parallel.data=16" not in written and "-s parallel.tensor=2" in written
    assert subprocess.run(["bash", "-n", "two"]).returncode == 0


def test_a_mesh_of_another_size_is_refused(place, capsys):
    assert launched("--nodes", "2", "-s", "parallel.data=4") == 2
    assert "--nodes, --processes: 2 x 1 are not the 4 ranks" in capsys.readouterr().err
    assert launched("--nodes", "4", "--processes", "8") == 2
    assert "parallel.data: 32 does not divide the 8 rows of a step" in capsys.readouterr().err
    assert not (place / "small.sbatch").exists()


@pytest.mark.parametrize("name", ["$(touch made)", "`touch made`", "a\ntouch made\n", 'it\'s "; touch made; "', "-b"])
def test_nothing_of_a_name_reaches_the_shell(place, name):
    """Of a folder, a patch and a recipe's path: what srun is given is what was said, and nothing else is started."""
    (place / name).mkdir()
    (place / "small.toml").rename(place / name / "small.toml")
    source = f"data.source.paths={json.dumps([name])}"
    with pytest.raises(SystemExit) as ended:
        main(["launch", "slurm", f"./{name}/small.toml", "--cpu", f"--folder={name}", "-s", source, "-o", "job"])
    assert not ended.value.code
    (place / "bin" / "srun").write_text("""#!/bin/bash\nprintf '%s\\0' "$@" > given\n""")
    job = started(place)
    assert job.communicate(timeout=60)[0] == "" and job.returncode == 0
    given = (place / "given").read_bytes().decode().split("\0")
    assert given[given.index("run") :][:5] == ["run", f"./{name}/small.toml", f"--folder={name}", "-s", source]
    assert not (place / "made").exists()


def started(place: Path, number: int = 7) -> subprocess.Popen[str]:
    """The job as Slurm starts it: on the first machine, in the folder of sbatch."""
    own = {"SLURM_JOB_ID": str(number), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "localhost,localhost"}
    paths = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "job"], cwd=place, env={**os.environ, **own, "PATH": paths, "OMP_NUM_THREADS": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def running(job: subprocess.Popen[str]) -> list[int]:
    """What a job has started and is still there: with its folder, and its variables."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            mine = b"SLURM_PROCID=" in (process / "environ").read_bytes()
            if mine and os.readlink(process / "cwd") == os.getcwd() and process.name != str(job.pid):
                found.append(int(process.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_jobs_of_one_machine_do_not_meet(place):
    """Their agents wait at ports of their own."""
    assert not launched("--nodes", "2", "--cpu", "--folder", "run", "-s", "train.steps=10", "-o", "job")
    other = place.with_name(f"{place.name}-other")
    shutil.copytree(place, other)
    jobs = [started(where, number) for where, number in ((place, 7), (other, 8))]
    for job in jobs:
        said = job.communicate(timeout=300)[0]
        assert job.returncode == 0, said
    for where in (place, other):
        assert max(line["step"] for line in read_metrics(where / "run" / "pretrain") if "loss" in line) == 10


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_slurm_ends_is_queued_again_and_goes_on(place):
    """Ended between two checkpoints: it saves where it is, asks to be queued, and ends as an undisturbed run."""
    assert not launched("--nodes", "2", "--cpu", "--folder", "run", "-o", "job")
    folder = place / "run" / "pretrain"

    def logged() -> int:
        return max((line["step"] for line in read_metrics(folder) if "loss" in line), default=0)

    job, stop = started(place), time.monotonic() + 200
    try:
        while logged() < 20:
            assert time.monotonic() < stop and job.poll() is None, job.communicate()[0]
            time.sleep(0.01)
        job.send_signal(signal.SIGTERM)
        said = job.communicate(timeout=100)[0]
        saved = Checkpoints(folder / "checkpoints").latest()
        assert job.returncode == 0 and (place / "requeued").read_text() == "7\n", said
        assert "SIGKILL" not in said and not running(job), "a rank did not end by itself"
        assert saved is not None and 20 <= saved.step == logged() < STEPS, said
        job = started(place)
        said = job.communicate(timeout=200)[0]
        assert job.returncode == 0 and "resuming" in said, said
    finally:
        job.kill()
    (place / "run").rename(place / "broken")
    job = started(place)
    said = job.communicate(timeout=200)[0]
    assert job.returncode == 0, said
    plain, broken = (Checkpoints(place / name / "pretrain" / "checkpoints").latest() for name in ("run", "broken"))
    assert plain is not None and broken is not None and plain.step == broken.step == STEPS
    for part, tensors in plain.tensors.items():
        assert all(torch.equal(broken.tensors[part][name], value) for name, value in tensors.items())


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(2400)
def test_a_recipe_on_ray_train_has_the_losses_of_one_process(place):
    """Two workers; started again, the run that is there goes on."""
    pytest.importorskip("ray", reason="needs `pip install llmanac[ray]`")
    own = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    own |= {"HOME": str(place), "LLMANAC_CACHE": str(cache_folder())}  # Ray Train writes into the home folder

    def losses(*command: str, folder: str, steps: int) -> list[float]:
        words = [*command, "small.toml", "--folder", folder, "-s", f"train.steps={steps}"]
        done = subprocess.run(
            [sys.executable, "-m", "llmanac", *words], cwd=place, env=own, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return [line["loss"] for line in read_metrics(place / folder / "pretrain") if "loss" in line]

    alone = losses("run", folder="one", steps=20)
    both = losses("launch", "ray", "--workers", "2", folder="two", steps=20)
    assert len(alone) == len(both) > 1 and both == pytest.approx(alone, abs=1e-5)
    assert losses("launch", "ray", "--workers", "2", folder="two", steps=20) == both


def test_workers_that_are_not_the_ranks_of_the_mesh_are_refused(place, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["launch", "ray", "small.toml", "--workers", "3", "-s", "parallel.tensor=2"])
    assert "--workers: 3 are not the 2 ranks" in capsys.readouterr().err
