"""`llmanac launch`: the batch file with which Slurm runs a recipe on several machines, and Ray Train."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

from llmanac.cli.options import Patches, group, on_processes
from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.files import write_text
from llmanac.core.run_folder import RECIPE

app = group("Training on the machines of a cluster.")
SAVES = 120  # seconds before its time ends that a job is told to
BATCH = """#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
{gpus}#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@{saves}

# Told to end (its time is over, or others need the machines), rank 0 ends its step and saves; the job goes on later.
# Every agent gives its ranks the time for that: the others end with rank 0.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={ends}
again() {{
    kill -TERM "$running"
    wait "$running"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}}
trap again TERM

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((15000 + SLURM_JOB_ID % 15000))  # a node may have several jobs; from 32768 on ports are the system's
resume=()
if [ -f {kept} ]; then resume=(--resume); fi
srun --kill-on-bad-exit=1 torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node {processes} --max-restarts 3 \\
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:$port" \\
    -m llmanac run {recipe} --folder={folder}{patches} "${{resume[@]}}" &
running=$!
wait "$running"
"""


@app.callback()
def _group() -> None:
    """Training on the machines of a cluster."""


@app.command("slurm")
def slurm_command(
    recipe: str, nodes: int = 1, processes: int = 1, set_: Patches = None, folder: Path | None = None,
    output: Path | None = None, cpu: bool = False,
) -> Any:  # fmt: skip
    """Write an sbatch file that runs a recipe on several machines, and goes on where it was ended.

    Ranks share the rows of a step where neither the recipe nor -s say more. The folder of the run, and the recipe's
    files, are on a disk that all machines see. Options of a site (partition, account, time) go to sbatch itself.

    Args:
        recipe: quickstart, ..., or the path of a recipe.toml.
        nodes (from 1): Machines.
        processes (from 1): Processes on each machine, one for each GPU.
        folder: Output folder [runs/<name>].
        output (-o, --output): The file [<name>.sbatch].
        cpu: Ask Slurm for no GPUs.
    """
    asked, given = _asked(recipe, set_, nodes * processes, f"--nodes, --processes: {nodes} x {processes}")
    place = folder or Path("runs") / asked.name
    text = BATCH.format(
        name=asked.name, nodes=nodes, processes=processes, saves=SAVES, ends=SAVES - 10, recipe=quote(recipe),
        folder=quote(str(place)),
        gpus="" if cpu else f"#SBATCH --gpus-per-node={processes}\n", kept=quote(str(place / RECIPE)),
        patches="".join(f" -s {quote(patch)}" for patch in given),
    )  # fmt: skip
    made = write_text(output or Path(f"{asked.name}.sbatch"), text)
    print(f"{made}: {nodes} machines with {processes} processes each\nNext: sbatch {quote(str(made))}")
    return {"file": str(made), "ranks": nodes * processes}


@app.command("ray")
def ray_command(
    recipe: str, workers: int = 1, set_: Patches = None, folder: Path | None = None, gpus: bool = False
) -> Any:  # fmt: skip
    """Run a recipe by Ray Train on the cluster at RAY_ADDRESS, or on this machine; a run that is there goes on.

    Ranks share the rows of a step where neither the recipe nor -s say more. Rank 0, on whichever machine, reads the
    recipe and its text and writes the folder: both are on a disk that all machines see, or in a store.

    Args:
        recipe: quickstart, ..., or the path of a recipe.toml.
        workers (from 1): Processes.
        folder: Output folder [runs/<name>].
        gpus: A GPU for each.
    """
    asked, given = _asked(recipe, set_, workers, f"--workers: {workers}")
    try:
        from llmanac.parallel import ray_train
    except ImportError as error:
        raise LlmanacError(f"Ray Train is not installed ({error}); run `pip install 'llmanac[ray]'`") from None
    place = str(folder or Path("runs") / asked.name)
    patches = [word for patch in given for word in ("-s", patch)]
    name = str(Path(recipe).resolve()) if Path(recipe).is_file() else recipe
    ray_train.run([name, f"--folder={place}", *patches], place, workers, gpus=gpus)
    print(f"{place}: trained on {workers} workers")
    return {"folder": place, "ranks": workers}


def _asked(recipe: str, set_: list[str] | None, count: int, flag: str) -> tuple[Any, list[str]]:
    """What a recipe is with patches on so many processes, and the patches that say so."""
    from llmanac.core import spec
    from llmanac.recipes.run import asked_for
    from llmanac.recipes.spec import RecipeSpec, read_recipe

    changes = on_processes(spec.parse_patches(set_ or ()), count, read_recipe(recipe))
    asked: Any = asked_for(recipe, changes)[1].spec
    if (ranks := asked.parallel.ranks) != count:
        raise SpecError(f"{flag} are not the {ranks} ranks of the recipe's mesh")
    if isinstance(asked, RecipeSpec):  # refused now, not after hours in a queue; a tuning rounds its batch up
        asked.parallel.micro_batch(asked.train.rows, asked.train.micro_batch)
    given = [*(set_ or ())]
    given += [f"parallel.data={ranks}"] if changes.keys() - spec.parse_patches(given).keys() else []
    return asked, given
