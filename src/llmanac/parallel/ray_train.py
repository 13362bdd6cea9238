"""A recipe on a Ray cluster: Ray Train's TorchTrainer places the workers, and each is a rank as torchrun starts it."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import ray
from ray import train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from llmanac.core.errors import LlmanacError
from llmanac.core.run_folder import RECIPE
from llmanac.core.stores import STORE

RESTARTS = 3


def run(command: list[str], folder: str, workers: int, *, gpus: bool) -> None:
    """Run `llmanac run` with these words on each of the workers; rank 0 goes on with what `folder` holds.

    Raises:
        LlmanacError: a worker ended with an error, more often than it is started again.
    """
    config = {"command": command, "folder": folder, "place": os.getcwd()}
    trainer = TorchTrainer(
        _rank, train_loop_config=config, torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus),
        run_config=RunConfig(failure_config=FailureConfig(max_failures=RESTARTS)),
    )  # fmt: skip
    try:
        trainer.fit()
    except Exception as error:  # its classes are those of the release
        raise LlmanacError(f"ray: {str(error).strip()[-500:]}") from None


def _rank(config: dict[str, Any]) -> None:
    """One worker: the ranks agree on a port through the group that Ray has made, and leave that alone."""
    import torch.distributed as dist

    context = train.get_context()
    rank = context.get_world_rank()
    where: list[Any] = [None]
    if not rank:
        with socket.socket() as found:
            found.bind(("", 0))
            where = [(ray.util.get_node_ip_address(), found.getsockname()[1])]
    dist.broadcast_object_list(where)
    ((address, port),) = where
    own = {"RANK": rank, "LOCAL_RANK": context.get_local_rank(), "WORLD_SIZE": context.get_world_size(),
           "MASTER_ADDR": address, "MASTER_PORT": port}  # fmt: skip
    command = [sys.executable, "-m", "llmanac", "run", *config["command"]]
    place = config["place"] if Path(config["place"]).is_dir() else None  # further ranks read nothing
    if not rank and (STORE.match(config["folder"]) or (Path(place or ".") / config["folder"] / RECIPE).is_file()):
        command.append("--resume")
    ended = subprocess.run(command, cwd=place, env={**os.environ, **{name: str(value) for name, value in own.items()}})
    if ended.returncode:
        raise RuntimeError(f"rank {rank} of llmanac ended with status {ended.returncode}; its output says why")
