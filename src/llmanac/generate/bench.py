"""How fast an engine reads and writes, beside what the machine's memory and arithmetic allow."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from llmanac.core import device
from llmanac.core.errors import RequestError
from llmanac.core.types import evaluating
from llmanac.generate.engine import Engine
from llmanac.generate.schedule import READ_TOKENS

STEPS, ROUNDS = 8, 5


def machine_limits() -> tuple[float, float]:
    """Bytes a second that are read from memory, and FLOP/s of float32 matrix products, where `auto` computes."""
    if not device.may_have_gpu() or not device.torch_is_there():
        return device.measure_host()
    import torch

    where = device.resolve_device("auto")
    return device.measure_bandwidth(where), device.measure_gemm(torch.float32, where)


def rates(
    engine: Engine,
    *,
    rows: Sequence[int] = (1, 8),
    context: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
    limits: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Tokens a second of a prompt of `context` tokens, and of decoding with that many tokens before.

    Without `context` it is 512, or fewer where the model's is shorter.

    Greedy, with different random prompts. The limits are measured: of decoding one row, the bandwidth over the bytes of
    the weights; of reading, the rate of float32 matrix products over a token's, None where the runner multiplies codes.

    Args:
        limits: of the machine, as `machine_limits` gives them; measured here by default, in memory beside the model's.

    Raises:
        RequestError: a context that the model does not have room for.
    """
    model: Any = engine.model
    if engine.native is None and (not list(model.parameters()) or not hasattr(model, "device")):
        raise RequestError("model: has no weights to read, so there is nothing to measure it against")
    limit = model.max_length
    # rows that are read first decode while others are read, a piece a step
    if context is None:
        most = STEPS * (ROUNDS + 2) + max(rows) * (512 // READ_TOKENS + 1)
        context = 512 if limit is None else max(1, min(512, limit - most))
    new = STEPS * (ROUNDS + 2) + max(rows) * (context // READ_TOKENS + 1)
    if context < 1 or (limit is not None and context + new > limit):
        raise RequestError(
            f"--context: {context} tokens and {new} of the measurement do not fit the model's {limit}; give fewer"
        )
    draws = np.random.default_rng(0)
    found: dict[str, Any] = {"decode": {}}
    with evaluating(model):
        engine.generate([[1, 2, 3]], max_new_tokens=2, stop_ids=())  # compiles, once for a machine
        for count in rows:
            scheduler = Engine(model, rows=count, runner=engine.native or "torch").scheduler()
            prompts = draws.integers(0, model.vocab_size, (count, context)).tolist()
            start = clock()
            for prompt in prompts:
                scheduler.submit(engine.request(prompt, max_new_tokens=new, stop_ids=[]))
            while scheduler.waiting or any(row.sequence is None for row in scheduler.table):
                scheduler.step()
            if "read" not in found:  # of a single prompt
                found["read"] = count * context / (clock() - start)
            speeds = []
            for _ in range(ROUNDS + 1):
                start = clock()
                tokens = sum(len(scheduler.step()) for _ in range(STEPS))
                speeds.append(tokens / (clock() - start))
            found["decode"][count] = statistics.median(speeds[1:])
            scheduler.reset()
    if engine.native is None:
        from llmanac.models.quantized import stored_bytes

        weights = stored_bytes(model)
    else:
        weights = engine.native.nbytes
    bandwidth, products = limits or machine_limits()
    flops = 2 * model.parameter_count()
    return found | {
        "runner": "torch" if engine.native is None else f"native, {engine.native.form}",
        "threads": engine.threads,
        "context": context,
        "weights_bytes": weights,
        "read_bytes_per_second": bandwidth,
        "gemm_flops": products,
        "decode_limit": bandwidth / weights,
        "read_limit": None if engine.native and engine.native.coded else products / flops,
    }
