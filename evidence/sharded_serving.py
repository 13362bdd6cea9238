"""Serving over several processes: bytes, computing and memory of each rank, and what a lost rank does.

A decoder of {parameters:,} parameters with random weights, float32, on processes of this machine (gloo, one thread
each). A prompt of {prompt} tokens and {new} new ones. "CPU" is of rank 0, for one row and without the prompt, the
median of {rounds} rounds in which the meshes take turns; time on the clock was not kept: the machine had other work.
"Weights" and "states" are bytes that each rank holds while {rows} rows run. "Sent" is counted in the collectives of one
row in float64.

- Tokens: in float64 greedy tokens of {rows} rows equal those of one process on {equal} of {meshes} meshes, and log
  probabilities differ by {difference:.0e} at most.
- Memory: two tensor ranks hold {share[tensor]:.2f} of the weights each (norms are not divided), a stage of a pipeline
  {share[pipeline]:.2f} at most (layers are cut by FLOPs, which the embedding has none of and the head many), a rank of
  2 x 2 {share[2 x 2]:.2f} at most. Of the states a rank holds {states[tensor]:.2f}, {states[pipeline]:.2f} and
  {states[2 x 2]:.2f} at most.
- Bytes sent by every rank equal the closed form on {exact} of {meshes} meshes: two all-reduces a layer and the logits
  for tensor parallelism, one hidden state a token and the logits for a pipeline.
- Of CPU time one row takes rank 0 {cpu[tensor]:.2f} of one process's with two tensor ranks (which includes sending
  between processes of one machine) and {cpu[pipeline]:.2f} with two stages, which wait for each other.
- A rank that is killed ends the request with an error after {killed:.1f} s at most, most of which is the wait for signs
  of life that say which rank it was. One that hangs is named {hangs:.1f} s after the request, with a timeout of
  {timeout} s.
"""

from __future__ import annotations

import functools
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch

from evidence._ranks import on_ranks
from llmanac.core.errors import TrainingError
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.models.load import load_model
from llmanac.models.save import save_model
from llmanac.parallel import pipeline, serving, traffic
from llmanac.parallel._served import LENGTH

ROWS = ("serve/sharding",)
CLAIM = "each rank holds its part of weights and states, tokens are those of one process, and a lost rank is an error"
SEEDS = 1
TIMED = ("cpu", "after", "difference")

MESHES: dict[str, dict[str, int]] = {
    "one process": {},
    "tensor": {"tensor": 2},
    "pipeline": {"pipeline": 2},
    "2 x 2": {"tensor": 2, "pipeline": 2},
}
SIZES = {
    "full": {"dim": 512, "layers": 8, "width": 1536, "vocabulary": 8192, "prompt": 32, "new": 24}
    | {"rows": 8, "rounds": 3},
    "small": {"dim": 16, "layers": 2, "width": 32, "vocabulary": 64, "prompt": 4, "new": 3, "rows": 2, "rounds": 1},
}
TIMEOUT = 3


def measure(seed: int, size: str) -> dict[str, Any]:
    """Every mesh in turn, several times; then the tokens, the bytes and the lost ranks."""
    shape, threads = SIZES[size], torch.get_num_threads()
    chosen = list(MESHES) if size == "full" else ["one process", "pipeline"]
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = built(shape, seed)
            save_model(model, folder)
            rounds = [{name: run(timed, name, folder, shape) for name in chosen} for _ in range(shape["rounds"])]
            exact = {name: run(counted, name, folder, shape) for name in chosen}
            names = chosen[1:3] if size == "full" else []
            lost = [
                run(losing, name, folder, shape, number)[0] | {"mesh": name}
                for name in names
                for number in (signal.SIGKILL, signal.SIGSTOP)
            ]
    finally:
        torch.set_num_threads(threads)
    return {
        "parameters": model.parameter_count(), "lost": lost,
        "meshes": {name: joined([one[name][0] for one in rounds], exact[name], shape, name) for name in chosen},
        "equal": {name: exact[name][0]["ids"] == exact["one process"][0]["ids"] for name in chosen[1:]},
        "difference": max(
            abs(a - b)
            for name in chosen[1:]
            for a, b in zip(exact[name][0]["logprobs"], exact["one process"][0]["logprobs"], strict=True)
        ),
    }  # fmt: skip


def built(shape: dict[str, int], seed: int) -> Any:
    """A Llama with two heads a key-value head, whose layers do something: random weights in place of zeros."""
    mixer = {"name": "softmax", "heads": 8, "kv_heads": 4, "head_dim": max(2, shape["dim"] // 8)}
    block = {"name": "pre-norm", "mixer": mixer, "ffn": {"name": "gated", "width": shape["width"]}}
    fields = {"name": "transformer", "dim": shape["dim"], "layers": shape["layers"], "max_length": 256, "tied": False}
    model = make_method("lm", {**fields, "blocks": [block]}).build(vocab_size=shape["vocabulary"]).initialise(seed)
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.normal_(p, std=p.shape[1] ** -0.5, generator=generator)
    return model


def run(what: Any, name: str, folder: str, *given: Any) -> list[Any]:
    """`what` on rank 0 of a mesh, and what each other rank sent."""
    sizes = MESHES[name]
    ranks = sizes.get("tensor", 1) * sizes.get("pipeline", 1)
    return on_ranks(ranks, functools.partial(what, sizes, folder, *given), sending)


def sending() -> float | None:
    """A further rank: the bytes that it sent; None where rank 0 stopped."""
    try:
        with traffic.Recorder() as sent:
            serving.follow()
    except TrainingError:
        return None
    return sent.total


def engine_of(folder: str, dtype: torch.dtype, rows: int) -> Engine:
    return Engine(load_model(folder, device="cpu", dtype=dtype), rows=rows)  # type: ignore[arg-type]


def serve(engine: Engine, folder: str, sizes: dict[str, int], timeout: int = 60) -> Any:
    return serving.serving(engine, folder, **sizes, timeout=timeout)


def prompts_of(shape: dict[str, int], rows: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    found: list[list[int]] = torch.randint(shape["vocabulary"], (rows, shape["prompt"]), generator=generator).tolist()
    return found


def timed(sizes: dict[str, int], folder: str, shape: dict[str, int]) -> dict[str, Any]:
    """CPU seconds a token of one row on rank 0, and bytes of each rank while all rows run."""
    engine, found = engine_of(folder, torch.float32, shape["rows"]), {}
    with serve(engine, folder, sizes) as calls, torch.inference_mode():
        for name, rows in (("one", 1), ("all", shape["rows"])):
            runner, prompts = engine.make_runner(), prompts_of(shape, rows)  # type: ignore[misc]
            runner.extend(prompts, shape["new"])
            logits = runner.read(0, prompts, every=False)
            busy = []
            for _ in range(shape["new"]):
                tokens = logits[:, -1].argmax(-1)[:, None].tolist()
                computed = time.process_time()
                logits = runner.read(0, tokens, every=False)
                busy.append(time.process_time() - computed)
            found[name], held = statistics.median(busy), calls.held()
            runner.reset()
    return {"cpu": found["one"], "held": held}


def counted(sizes: dict[str, int], folder: str, shape: dict[str, int]) -> dict[str, Any]:
    """Tokens and log probabilities in float64, then the bytes that rank 0 sends for one row."""
    engine = engine_of(folder, torch.float64, shape["rows"])
    options: Any = {"max_new_tokens": shape["new"], "stop_ids": ()}
    with serve(engine, folder, sizes), traffic.Recorder() as sent:
        every = engine.generate(prompts_of(shape, shape["rows"]), **options)
        before = sent.total
        engine.generate(prompts_of(shape, 1), **options)
        one = sent.total - before
    return {
        "ids": [list(done.ids) for done in every], "sent": [before, one],
        "logprobs": [token.logprob for done in every for token in done.token_logprobs],
    }  # fmt: skip


def closed_form(shape: dict[str, int], sizes: dict[str, int], rank: int, rows: int) -> float:
    """Bytes that a rank sends in float64: rows of `prompt` tokens, each continued by `new`."""
    n, stages = sizes.get("tensor", 1), sizes.get("pipeline", 1)
    stage, column = divmod(rank, n)
    first, last = stage == 0, stage == stages - 1
    tokens = rows * (shape["prompt"] + shape["new"] - 1)  # the last token is not read
    logits = rows * shape["new"] * shape["vocabulary"]
    layers = len(pipeline.cut_model(built(shape, 0), stages, LENGTH)[stage]) if stages > 1 else shape["layers"]
    numbers = 2 * (n - 1) / n * tokens * shape["dim"] * (2 * layers + first)
    numbers += (n - 1) / n * logits * last
    numbers += tokens * shape["dim"] * (not last)
    return 8 * (numbers + logits * (last and stages > 1 and column == 0))


def joined(rounds: list[Any], exact: list[Any], shape: dict[str, int], name: str) -> dict[str, Any]:
    """One mesh: medians of the rounds, and bytes of every rank with their closed form."""
    ranks = len(exact)
    forms = [closed_form(shape, MESHES[name], rank, shape["rows"]) for rank in range(ranks)]
    one = [closed_form(shape, MESHES[name], rank, 1) for rank in range(ranks)]
    sent = [exact[0]["sent"][0] + exact[0]["sent"][1], *exact[1:]]
    return {
        "cpu": statistics.median(one["cpu"] for one in rounds), "held": rounds[0]["held"], "sent": sent,
        "form": [a + b for a, b in zip(forms, one, strict=True)],
        "sent of a row": exact[0]["sent"][1],
    }  # fmt: skip


def losing(sizes: dict[str, int], folder: str, shape: dict[str, int], number: int) -> dict[str, Any]:
    """What a request says, and after how many seconds, when rank 1 is killed (or stopped) before it."""
    engine = engine_of(folder, torch.float32, 1)
    with serve(engine, folder, sizes, TIMEOUT) as calls:
        engine.generate([[1, 2, 3]], max_new_tokens=2)
        process, start, says = int(calls.mesh.store.get("process/1")), time.perf_counter(), ""
        os.kill(process, number)
        try:
            engine.generate([[1, 2, 3]], max_new_tokens=2)
        except TrainingError as error:
            says = str(error)
        after = time.perf_counter() - start
        os.kill(process, signal.SIGKILL)
    return {"signal": signal.Signals(number).name, "says": says, "after": after}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    (result,) = seeds
    mega, costs, failures = 1e6, [], []
    for name, m in result["meshes"].items():
        held = [" + ".join(f"{rank[what] / mega:.2f}" for rank in m["held"]) for what in ("weights", "states")]
        sent = f"{m['sent of a row'] / 1e3:.0f}"
        costs.append([name, *held, sent, f"{1000 * m['cpu']:.1f}"])
    for one in result["lost"]:
        failures.append([one["mesh"], one["signal"], f"{one['after']:.1f}", one["says"]])
    heads = ["mesh", "weights of each rank (MB)", "states (MB)", "sent by rank 0 (KB)", "CPU ms of rank 0 a token"]
    return [
        Section("Each mesh", [], [table(heads, costs)]),
        Section("A lost rank", [], [table(["mesh", "signal", "s", "the error"], failures)]),
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (result,) = seeds
    meshes, shape = result["meshes"], SIZES["full"]
    one = meshes["one process"]

    def part(what: str) -> dict[str, float]:
        return {name: max(rank[what] for rank in m["held"]) / one["held"][0][what] for name, m in meshes.items()}

    after = {s: max(x["after"] for x in result["lost"] if x["signal"] == s) for s in ("SIGKILL", "SIGSTOP")}
    return {
        "parameters": result["parameters"], **{name: shape[name] for name in ("prompt", "new", "rows", "rounds")},
        "equal": sum(result["equal"].values()), "meshes": len(meshes) - 1, "difference": result["difference"],
        "share": part("weights"), "states": part("states"), "timeout": TIMEOUT,
        "exact": sum(m["sent"] == m["form"] for name, m in meshes.items() if name != "one process"),
        "cpu": {name: m["cpu"] / one["cpu"] for name, m in meshes.items()},
        "killed": after["SIGKILL"], "hangs": after["SIGSTOP"],
    }  # fmt: skip
