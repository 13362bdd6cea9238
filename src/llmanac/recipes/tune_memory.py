"""How many rows are computed at a time: what one row's forward pass keeps for its gradients, against the memory.

Where not even one row fits, blocks are computed again in the backward pass, which keeps less and takes longer.

A share of the machine's memory decides, so that the same command computes the same numbers again; where less than that
is free, what is free does, and it is said.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn

from llmanac.core.device import resolve_dtype, system_memory
from llmanac.core.errors import SpecError
from llmanac.core.progress import Report
from llmanac.core.types import capabilities
from llmanac.models.quantized import Quantized
from llmanac.train import TrainSpec
from llmanac.train.calibration import preserve_all, trial_rows
from llmanac.train.plan import MICRO_TOKENS, TrainingPlan, set_recompute

SHARE, MOST_FREE = 0.4, 0.9  # of the device's memory, and of what is free of it
STATE_BYTES = 12  # a trained parameter's gradient and AdamW's two averages, float32
WORK = 1.5  # what the backward pass needs on top of what was kept


def plan_memory(
    model: Any, objective: Any, stream: Any, spec: TrainSpec, folder: Path, report: Report, *, free: int | None = None
) -> TrainSpec:
    """The training with `micro_batch` settled, and `recompute` where it must; a resumed one keeps what was planned.

    Args:
        free: bytes that may be used, by default two fifths of the device's memory, and less where less is free.

    Raises:
        SpecError: not even one row fits.
    """
    made = TrainingPlan.read(folder)
    if made is not None:
        return dataclasses.replace(spec, micro_batch=made.spec.micro_batch, recompute=made.spec.recompute)
    if spec.micro_batch is not None or objective.couples_batch:
        return spec
    device = next(model.parameters()).device
    now, total = memory_bytes(device)
    room = int(SHARE * total) if free is None else free
    if free is None and room > MOST_FREE * now:
        room = int(MOST_FREE * now)
        report(
            f"memory: {now / 1e9:.2g} of {total / 1e9:.2g} GB are free; fewer rows at a time may change the last bits"
        )
    trained = sum(p.numel() for p in {id(p): p for p in model.parameters() if p.requires_grad}.values())
    set_recompute(model, spec.recompute)
    with preserve_all(model, objective, None), trial_rows(stream) as draw:
        if "compute_dtype" in capabilities(model).settings:
            model.compute_dtype = resolve_dtype(spec.dtype, device)
        one = WORK * saved_bytes(model, objective, draw()[:1])
    left = room - STATE_BYTES * trained
    fit = int(left // max(one, 1))
    if fit < 1:
        need = (one + STATE_BYTES * trained) / 1e9
        short = f"a row of {spec.length} tokens needs about {need:.2g} GB, and {room / 1e9:.2g} GB may be used"
        if spec.recompute == "none" and "recompute" in capabilities(model).settings:
            report(f"memory: {short}; blocks are computed again instead (train.recompute=blocks), which takes longer")
            again = dataclasses.replace(spec, recompute="blocks")
            return plan_memory(model, objective, stream, again, folder, report, free=free)
        raise SpecError(f"rows.length: {short}; lower rows.length, or train an adapter instead of all weights")
    micro = max(1, min(fit, spec.rows, MICRO_TOKENS // spec.length))
    report(
        f"memory: about {one / 1e6:,.0f} MB a row of {spec.length} tokens; {micro} of {spec.rows} rows at a time "
        f"({STATE_BYTES * trained / 1e6:,.0f} MB of gradients and optimizer state)"
    )
    return dataclasses.replace(spec, micro_batch=micro)


def saved_bytes(model: nn.Module, objective: Any, rows: Sequence[Any]) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters and inputs left out; each storage once."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters() if not isinstance(p, Quantized)}
    kept: dict[int, UntypedStorage] = {}  # alive, so that no address is used twice

    def note(tensor: Tensor) -> None:  # the graph gets nothing: what it holds and holds this function is never freed
        if not isinstance(tensor, Quantized):  # a parameter: it is unpacked for each product
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = storage

    device = next(model.parameters()).device
    with torch.autograd.graph.saved_tensors_hooks(note, lambda nothing: nothing), torch.enable_grad():
        objective.loss(model, objective.collate(rows).to(device))
    return sum(storage.nbytes() for storage in kept.values())


def memory_bytes(device: torch.device) -> tuple[int, int]:
    """Memory that a process may still take on a device, and all of it."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(free), int(total)
    return system_memory()
