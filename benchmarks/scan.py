"""Recurrences against their peers: the selective scan, an LSTM and a GRU; one thread, float32.

The scan has one row, 256 channels and 16 states, as a Mamba layer of width 128. The LSTM and the GRU have 16 rows of
256 tokens at width 256; their times are forward and backward, with respect to the input and every parameter.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from _harness import Benchmark, Result, find_peer, interleave

CHANNELS, STATES = 256, 16
ROWS, LENGTH, WIDTH = 16, 256, 256

bench = Benchmark("scan", __doc__ or "")


def inputs(length: int) -> list[Any]:
    """u, dt, A, B, C and an empty state."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    u, dt = torch.randn(2, 1, length, CHANNELS)
    a = -torch.arange(1.0, STATES + 1).repeat(CHANNELS, 1)
    b, c = torch.randn(2, 1, length, STATES)
    return [u, torch.nn.functional.softplus(dt - 3), a, b, c, torch.zeros(1, CHANNELS, STATES)]


def contestants() -> tuple[Callable[..., Any], Callable[..., Any] | None, str]:
    """Our scan, the peer's torch path (None where it is not installed), and the peer's name."""
    from llmanac.kernels.nn.scan import selective_scan

    transformers, peer = find_peer("transformers")
    if transformers is None:
        return selective_scan, None, peer
    from transformers.models.mamba import modeling_mamba

    scan = modeling_mamba.mamba_selective_scan
    scan = getattr(scan, "__wrapped__", scan)

    def theirs(u: Any, dt: Any, a: Any, b: Any, c: Any, h: Any) -> Any:
        return scan(u.mT, dt.mT, a, b.mT, c.mT)

    return selective_scan, theirs, f"{peer} mamba_selective_scan"


def first(found: Any) -> Any:
    """The outputs of a scan that may give its last state too."""
    return found[0] if isinstance(found, tuple) else found


@bench.measure("scan-forward")
def forward() -> Result:
    """Tokens a second, 2048 of them, forward alone."""
    import torch

    given = inputs(2048)
    ours, theirs, peer = contestants()
    with torch.no_grad():
        runs = {"ours": lambda: ours(*given)} | ({"theirs": lambda: theirs(*given)} if theirs else {})
        if theirs:
            difference = (first(ours(*given)) - first(theirs(*given)).mT).abs().max().item()
            assert difference < 1e-3, f"the peer computes something else: {difference}"
        seconds = interleave(runs, rounds=9, clock=time.process_time)
    return Result.rate("scan-forward", 2048, seconds, unit="tokens/s", peer=peer)


def both_ways(scan: Callable[..., Any], given: list[Any]) -> Callable[[], Any]:
    """Forward and backward with respect to all inputs."""
    import torch

    def run() -> Any:
        leaves = [x.detach().requires_grad_() for x in given]
        y = first(scan(*leaves))
        return torch.autograd.grad(y.sum(), leaves[:5])

    return run


@bench.measure("scan-both-512")
def both() -> Result:
    """Tokens a second, 512 of them, forward and backward: the peer's backward is quadratic in them."""
    given = inputs(512)
    ours, theirs, peer = contestants()
    runs = {"ours": both_ways(ours, given)} | ({"theirs": both_ways(theirs, given)} if theirs else {})
    seconds = interleave(runs, rounds=5, clock=time.process_time)
    return Result.rate("scan-both-512", 512, seconds, unit="tokens/s", peer=peer)


@bench.measure("scan-memory")
def memory() -> Result:
    """Most megabytes that are allocated at a time, forward and backward at 512 tokens."""
    from torch.profiler import profile

    def peak(run: Callable[[], Any]) -> float:
        run()
        with profile(profile_memory=True) as seen:
            run()
        current = most = 0
        for event in seen.profiler.kineto_results.events():
            if event.name() == "[memory]":
                current += event.nbytes()
                most = max(most, current)
        return most / 1e6

    given = inputs(512)
    ours, theirs, peer = contestants()
    other = peak(both_ways(theirs, given)) if theirs else None
    return Result("scan-memory", "MB", peak(both_ways(ours, given)), peer, other, "lower")


def layer(name: str) -> Result:
    """Tokens a second of a recurrent layer without its output product, against torch.nn's."""
    import torch

    from llmanac.kernels.nn.recurrence import walk

    torch.set_num_threads(1)
    torch.manual_seed(0)
    peer = getattr(torch.nn, name.upper())(WIDTH, WIDTH, batch_first=True)
    x = torch.randn(ROWS, LENGTH, WIDTH)
    weights = list(peer.parameters())
    state = tuple(torch.zeros(ROWS, WIDTH) for _ in range(2 if name == "lstm" else 1))

    def ours() -> Any:
        own = x.detach().requires_grad_()
        projected = torch.nn.functional.linear(own, peer.weight_ih_l0, peer.bias_ih_l0)
        y, _ = walk(name, projected, peer.weight_hh_l0, peer.bias_hh_l0, state)  # type: ignore[arg-type]
        return torch.autograd.grad(y.sum(), [own, *weights])

    def theirs() -> Any:
        own = x.detach().requires_grad_()
        return torch.autograd.grad(peer(own)[0].sum(), [own, *weights])

    seconds = interleave({"ours": ours, "theirs": theirs}, rounds=7, clock=time.process_time)
    return Result.rate(
        name, ROWS * LENGTH, seconds, unit="tokens/s", peer=f"torch.nn.{name.upper()} {torch.__version__}"
    )


# Forward and backward.
bench.add("lstm", layer)


# Forward and backward.
bench.add("gru", layer)


if __name__ == "__main__":
    bench.main()
