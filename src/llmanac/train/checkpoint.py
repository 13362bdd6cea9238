"""Checkpoints: one folder per step, complete or absent, each file with its checksum, and all that a run needs to go on.

    checkpoints/step-00000500/
      model.safetensors        every trained parameter and persistent buffer, by name
      optimizer.safetensors    the optimizer's tensors
      objective.safetensors    "state.": what the objective learns; "models.": further models that are trained;
                               "source.": tensors of the source's state (often empty)
      state.json               step, the source's state, random states, best metric, fingerprints of frozen weights,
                               checksums, format_version

Of a training whose ranks write their own parts (format 3), the first two files hold what no rank has, and `parts/` a
file of each rank.

Frozen parameters (no `requires_grad`) are not in it: a resumed run is given the same base, which fingerprints check.
Format 1, of earlier versions, holds frozen parameters too and calls the source's state "cursor"; it is still read.

A checkpoint is written to a temporary folder, flushed to the disk, then renamed: a process killed at any moment leaves
the older checkpoints and no partial one. Reading takes the newest complete one and reports those it skipped.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmanac.core.errors import CheckpointError, LlmanacError
from llmanac.core.files import TEMPORARY, atomic_folder, read_table, write_json
from llmanac.core.files import file_sha256 as _sha256
from llmanac.models.quantized import Quantized

FORMAT_VERSION, IN_PARTS = 2, 3
READABLE = (1, 2, IN_PARTS)
STATE = "state.json"
PARTS = ("model", "optimizer", "objective")
SLICES = "parts"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint in memory: tensors by part and name, and the plain state."""

    folder: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter once (tied ones under their first name) and every persistent buffer."""
    kept = model.state_dict(keep_vars=True)
    out: dict[str, Tensor] = {name: p.detach() for name, p in model.named_parameters()}
    return out | {name: b.detach() for name, b in model.named_buffers() if name in kept}


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are not trained."""
    return {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}


@torch.no_grad()
def copy_tensors(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], file: Path) -> None:
    """Copy tensors into those of a model. Raises CheckpointError that names what is missing, unused or does not fit."""
    if own.keys() != tensors.keys():
        missing, unused = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        raise CheckpointError(f"{file}: does not fit this model (missing {missing[:3]}, unused {unused[:3]})")
    for name, target in own.items():
        if target.shape != tensors[name].shape:
            raise CheckpointError(f"{file}: {name} is {tuple(tensors[name].shape)}, the model's {tuple(target.shape)}")
        target.copy_(tensors[name])


def fingerprint(model: nn.Module) -> str:
    """A hash of every weight, to tell whether a frozen model is still the same one."""
    return hash_tensors(model_tensors(model))


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A hash of names and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        packed = tensor.form.pieces(tensor, tensor.dtype) if isinstance(tensor, Quantized) else None
        for rows in (tensor,) if packed is None else (rows for _, rows in packed):  # never all numbers at a time
            if rows.numel():
                digest.update(rows.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _seal(state: Mapping[str, Any]) -> str:
    rest = {k: v for k, v in state.items() if k != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:  # safetensors reports a full disk as its own error
        raise LlmanacError(f"{path}: cannot write ({error}); older checkpoints are whole") from error


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are; leftovers of interrupted writes in it are removed.
        keep: how many of the newest stay; the best one stays too.
        report: what a message for the user is given to; standard error by default.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2, report: Callable[[str], object] | None = None) -> None:
        self.folder, self.keep = Path(folder), keep
        self.report = report or (lambda text: print(text, file=sys.stderr))
        self._writing: Future[Path] | None = None
        for leftover in self.folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The steps that have a folder, in order; some may be incomplete."""
        names = (p.name.removeprefix("step-") for p in self.folder.glob("step-*") if p.is_dir())
        return sorted(int(name) for name in names if name.isdigit())

    def save(
        self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any],
        write_parts: Callable[[Path], dict[str, str]] | None = None,
    ) -> Path:  # fmt: skip
        """Write a checkpoint, then remove those that are neither new nor the best.

        Args:
            write_parts: has ranks write further tensors into a folder (`_parts.py`); gives files and their checksums.

        Raises:
            LlmanacError: the disk refused; it names the folder, and older checkpoints are as they were.
        """
        path = self.path(step)
        with _disk_errors(path), atomic_folder(path) as target:
            files = {}
            for part in PARTS:
                file = target / f"{part}.safetensors"
                save_file({k: v.detach().cpu().contiguous() for k, v in tensors.get(part, {}).items()}, file)
                files[file.name] = _sha256(file)
            record = {**state, "step": step, "format_version": FORMAT_VERSION, "files": files}
            if write_parts is not None:
                record |= {"format_version": IN_PARTS, "parts": write_parts(target / SLICES)}
            record = json.loads(json.dumps(record))  # as it will be read, so that the seal fits
            write_json(target / STATE, {**record, "seal": _seal(record)}, indent=None)
        self._prune(state.get("best"))
        return path

    def start(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """As `save`, while the caller goes on. Tensors of model and optimizer stay as they are until `wait`."""
        parts = {**tensors, "objective": {name: value.clone() for name, value in tensors["objective"].items()}}
        pool = ThreadPoolExecutor(1)
        self._writing = pool.submit(self.save, step, parts, json.loads(json.dumps(state)))
        pool.shutdown(wait=False)

    def wait(self) -> None:
        """Until what was started is written. Raises as `save`."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def clear(self) -> None:
        """Remove every checkpoint, for a run that starts over."""
        for step in self.steps():
            shutil.rmtree(self.path(step), ignore_errors=True)

    def _prune(self, best: Mapping[str, Any] | None) -> None:
        steps = self.steps()
        stay = {*steps[-self.keep :], int(best["step"]) if best else -1}
        for step in steps:
            if step not in stay:
                # Renamed first: a removal that is interrupted must not leave a half checkpoint under its name.
                gone = self.folder / f"{TEMPORARY}{os.getpid()}-gone-{step}"
                with contextlib.suppress(OSError):
                    os.replace(self.path(step), gone)
                    shutil.rmtree(gone, ignore_errors=True)

    def load(self, step: int, *, slices: bool = True) -> Checkpoint:
        """The checkpoint of a step; `slices`: with what ranks have written.

        Raises CheckpointError that names the file that is missing, cut or changed.
        """
        path = self.path(step)
        file = path / STATE
        state = read_table(file, error=CheckpointError)
        if state.get("seal") != _seal(state):
            raise CheckpointError(f"{file}: does not match its own checksum; it was damaged")
        if state["format_version"] not in READABLE:
            raise CheckpointError(
                f"{file}: has format {state['format_version']}, this version reads up to {IN_PARTS}; "
                "resume with the version that wrote it"
            )
        tensors = {}
        for part in PARTS:
            file = path / f"{part}.safetensors"
            if not file.is_file():
                raise CheckpointError(f"{file}: is missing")
            if _sha256(file) != state["files"].get(file.name):
                size = file.stat().st_size
                raise CheckpointError(f"{file}: does not match its checksum ({size} bytes); it was cut or damaged")
            tensors[part] = load_file(file)
        if state["format_version"] == IN_PARTS:
            if not isinstance(state.get("parts"), dict):
                raise CheckpointError(f"{path / STATE}: lists no parts, though its format has them; it was damaged")
            for key, value in self._slices(path / SLICES, state["parts"], slices).items():
                part, _, name = key.partition(".")
                tensors[part][name] = value
        return Checkpoint(path, tensors, state)

    def _slices(self, folder: Path, files: Mapping[str, str], read: bool) -> dict[str, Tensor]:
        """What the ranks have written. Raises CheckpointError for a file that is missing, damaged or too many."""
        from llmanac.train import _parts

        there = {p.name: p for p in folder.glob("*")}
        for name in sorted(files.keys() ^ there.keys()):
            raise CheckpointError(f"{folder / name}: is {'missing' if name in files else 'no part of this checkpoint'}")
        for name, file in there.items():
            if _sha256(file) != files[name]:
                raise CheckpointError(f"{file}: does not match its checksum; it was cut or damaged")
        return _parts.read(folder) if read else {}

    def latest(self, *, slices: bool = True) -> Checkpoint | None:
        """The newest complete checkpoint, with a warning for every newer one that is not; None where there are none.

        Raises:
            CheckpointError: there are checkpoints, but not one is whole.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.load(step, slices=slices)
            except CheckpointError as error:
                self.report(f"warning: {error}; falling back to the checkpoint before it")
        if steps:
            raise CheckpointError(
                f"{self.folder}: none of {len(steps)} checkpoints is whole; start over without --resume"
            )
        return None
