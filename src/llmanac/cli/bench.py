"""`llmanac bench`: how fast a model runs here, and how fast it could."""

import json

from llmanac.cli.options import AsJson, SomeModel, SomeRunner, Threads


def _shown(rate: float) -> str:
    """Three digits at least: of a slow model they differ between runs."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def bench_command(
    path: SomeModel, rows: list[int] | None = None, context: int | None = None, runner: SomeRunner = "auto",
    threads: Threads = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure tokens a second of prefill and decoding, next to this machine's memory and matrix-product limits.

    Args:
        rows (from 1): Rows that decode together; repeatable [1, 8].
        context (from 1): Tokens of each row's prompt [512, or what fits the model].
    """
    from llmanac.generate.bench import machine_limits, rates
    from llmanac.generate.load import load_writer

    limits = machine_limits()  # before the model takes memory
    found = rates(load_writer(path, runner=runner), rows=rows or (1, 8), context=context, limits=limits)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    megabytes = found["weights_bytes"] / 1e6
    several = "1 thread" if found["threads"] == 1 else f"{found['threads']} threads"
    print(f"runner      {found['runner']}, {several}, {megabytes:,.0f} MB of weights, read once a token")
    limit = ""
    if found["read_limit"] is not None:
        limit = f" ({found['gemm_flops'] / 1e9:,.0f} GFLOP/s in float32 allow {_shown(found['read_limit'])})"
    print(f"prefill     {_shown(found['read'])} tokens/s of a prompt of {found['context']}{limit}")
    for count, rate in found["decode"].items():
        limit = f"{found['read_bytes_per_second'] / 1e9:,.1f} GB/s allow {_shown(found['decode_limit'] * count)}"
        print(f"decode {count:4} {_shown(rate)} tokens/s ({limit})")
