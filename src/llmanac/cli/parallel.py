"""`llmanac parallel plan`: which mesh for how many devices."""

import re
from pathlib import Path
from typing import Any

from llmanac.cli.options import group
from llmanac.core.errors import SpecError

parallel_app = group("Training on several processes.")
SHOWN = 10
UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}


@parallel_app.callback()
def _group() -> None:
    """Training on several processes."""


@parallel_app.command("plan")
def plan_command(
    model: Path, devices: int = 8, memory: str = "80GB", bandwidth: str = "50GB", rate: str = "400T", rows: int = 256,
    length: int = 2048, micro_batch: int | None = None, within: str = "450GB", adapter: int = 0,
) -> Any:  # fmt: skip
    """Memory, bytes sent, waiting and time of a step for each mesh, by formulas; the fastest first.

    Args:
        model: A model's folder, or a config.json.
        devices (from 1): How many there are.
        memory: Bytes of a device.
        bandwidth: Bytes a second that a device sends to other machines.
        rate: FLOP/s that a device reaches, about half of its datasheet's.
        rows (from 1): Rows of a step, over all devices.
        length (from 1): Tokens of a row.
        micro_batch (from 1): Most rows that a device computes at a time; as `run` chooses.
        within: Bytes a second that a device sends to others of its machine, of 8.
        adapter (from 0): Rank of a LoRA adapter; 0 trains all weights.
    """
    from llmanac.cli.tables import print_table
    from llmanac.parallel.plan import estimates, per_node, read_model
    from llmanac.train.plan import default_micro_batch

    built = read_model(model)
    found = estimates(
        built, devices, memory=number(memory, "--memory"), bandwidth=number(bandwidth, "--bandwidth"),
        rate=number(rate, "--rate"), rows=rows, length=length,
        micro_batch=micro_batch or default_micro_batch(rows, length), within=number(within, "--within"),
        adapter=adapter,
    )  # fmt: skip
    lines = [
        (
            "x".join(str(n) for n in (e.spec.data, e.spec.context, e.spec.tensor, e.spec.pipeline)),
            e.spec.schedule if e.spec.pipeline > 1 else "", str(e.micro_batch),
            *(f"{part / 1e9:.1f}" for part in (e.states + e.gathered, e.activations, e.sent)),
            f"{e.use:.0%}", f"{e.bubble:.1%}", f"{e.seconds:.3g}",
        )
        for e in found[:SHOWN]
    ]  # fmt: skip
    count = f"{built.parameter_count() / 1e9:.3g} B parameters"
    title = f"estimates for {count} on {devices} devices; a step has {rows * length:,} tokens"
    title += f"\n{len(found)} meshes (data x context x tensor x pipeline) fit, the fastest first"
    title += "\nrows: of a micro-batch; held (states and gathered), activations, sent: GB of a device; use: of --rate"
    heads = ["mesh", "schedule", "rows", "held", "act.", "sent", "use", "waits", "s/step"]
    print_table(title, heads, lines, left=(0, 1), least=110)
    best = found[0].spec
    mesh = f"-s parallel.data={best.data} -s parallel.tensor={best.tensor} -s parallel.pipeline={best.pipeline}"
    mesh += f" -s parallel.context={best.context}" if best.context > 1 else ""
    mesh += f" -s parallel.schedule={best.schedule}" if best.pipeline > 1 else ""
    mesh += (
        f" -s train.length={length} -s train.batch_tokens={rows * length} -s train.micro_batch={found[0].micro_batch}"
    )
    each = per_node(best)
    nodes = f"--nnodes {devices // each} --rdzv-backend c10d --rdzv-endpoint HOST:29500 " if each < devices else ""
    where = ", on each machine" if nodes else ""
    print(f"Next{where}:\n  torchrun {nodes}--nproc-per-node {each} -m llmanac run RECIPE {mesh}")
    return found


def number(text: str, flag: str) -> float:
    """`80GB`, `80GiB`, `400T`, `50GB/s`, `400Gb/s` (bits) -> a number of bytes or FLOPs.

    Raises:
        SpecError: it is neither; names the flag.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kKmMgGtTpP]?)(i?)([bB]|[fF][lL][oO][pP][sS]?)?)(?:/s)?\s*", text)
    if not match or not float(match[1]) or (match[3] and not (match[2] and match[4])):
        raise SpecError(f"{flag}: {text!r} is not a size; write 80GB, 80GiB, 50GB/s, 400Gb/s or 400T")
    scale = 1024.0 ** (" kmgtp".index(match[2].lower())) if match[3] else UNITS[match[2].lower()]
    return float(match[1]) * scale / (8 if match[4] == "b" else 1)
