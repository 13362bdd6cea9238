"""Key-value heads: multi-head, grouped-query, multi-query and latent attention.

The cache, counted from the state of a model that read a context: multi-head keeps {most:,} bytes a token (float32,
{layers} layers, {heads} heads), the largest; grouped-query with {groups} key-value heads keeps {grouped} of it,
multi-query {single}, a latent of {latent} numbers {small}. The counts equal 2 H_kv d numbers a layer, n + r for the
latent.

Decoding: models of width {wide} with {many} heads and random weights, {context:,} tokens in the cache. Against
multi-head, grouped-query with {two} key-value heads takes {fast} of the time for a token, multi-query {faster}; after
{short} tokens, where weights are most of what is read, {near} and {nearer}.

Quality: models of about {parameters:,} parameters, trained on the same {tokens:,} tokens of real text, sizes otherwise
equal, so that fewer key-value heads are fewer parameters too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from evidence._grid import MIXER, SHAPE, STEPS, bits, model_spec, paced, recipe, trained, verdicts
from evidence._page import with_interval
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.core.types import LAST
from llmanac.lab.costs import state_costs
from llmanac.lab.stats import mean

ROWS = ("attention/multi-head", "attention/grouped-query")
CLAIM = "multi-head attention has the largest cache; grouped-query trades its bytes and decoding time against quality"
SEEDS = 3
TIMED = ("seconds", "ratio")
TOLERANCE = 1e-3  # float32 training
LATENT, KV = 24, 2
ARMS: dict[str, dict[str, Any]] = {
    "multi-head": {}, "grouped-query": {"kv_heads": KV}, "multi-query": {"kv_heads": 1},
    "latent": {"name": "latent", "latent": LATENT},
}  # fmt: skip
WIDE, HEADS, CONTEXTS, NEW = 256, 8, (128, 2048), 4


def measure(seed: int, size: str) -> dict[str, Any]:
    found: dict[str, Any] = {"arms": {}}
    for name in ARMS if size == "full" else ("grouped-query",):
        spec = model_spec(size, mixer=ARMS[name])
        if name == "latent":  # its bytes only
            model = spec.build(vocab_size=1024).eval()
            found["arms"][name] = {"parameters": float(model.parameter_count()), "bytes": bytes_a_token(model)}
            continue
        model = trained(spec, seed, size)
        found["arms"][name] = {**bits(model, size), "bytes": bytes_a_token(model)}
    return found if size == "small" else {**found, "decoding": {str(n): decoding(n, seed) for n in CONTEXTS}}


def bytes_a_token(model: Any) -> float:
    """Of a cache, which grows by as much with each token."""
    found = state_costs(model)
    return cast(float, found["state_bytes"]) / cast(float, found["state_tokens"])


@torch.inference_mode()
def decoding(context: int, seed: int) -> dict[str, dict[str, float]]:
    """Time of a token after a context, for wider models with random weights."""
    ids = torch.randint(1024, (1, context), generator=torch.Generator().manual_seed(seed))
    runs = {}
    for name, mixer in ARMS.items():
        mixed = {"name": "multi-head", "heads": HEADS, **mixer, **({"latent": None} if name == "latent" else {})}
        blocks = [{"name": "pre-norm", "mixer": mixed}]
        spec = make_method("lm", {"name": "transformer", "dim": WIDE, "max_length": 2 * CONTEXTS[-1], "blocks": blocks})
        model = spec.build(vocab_size=1024).eval()
        state = model.start(1)
        for part in ids.split(512, 1):
            model(part, state, LAST)
        state.reserve(1024)

        def run(model: Any = model, state: Any = state) -> None:
            for _ in range(NEW):
                model(ids[:, :1], state, LAST)

        runs[name] = run
    return {name: {**one, "seconds": one["seconds"] / NEW} for name, one in paced(runs, 9).items()}


def counted(name: str) -> int:
    """Bytes a token by the formula."""
    d = SHAPE["dim"] // MIXER["heads"]
    numbers = LATENT + d // 4 * 2 if name == "latent" else 2 * d * ARMS[name].get("kv_heads", MIXER["heads"])
    return int(4 * SHAPE["layers"] * numbers)


def losses(seeds: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    return {name: [one["arms"][name]["bits per byte"] for one in seeds] for name in ARMS if name != "latent"}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    body = [
        [name, f"{one['parameters']:,.0f}", f"{one['bytes']:,.0f}", f"{counted(name):,}"]
        for name, one in seeds[0]["arms"].items()
    ]
    times = []
    for name in ARMS:
        row = [name]
        for n in map(str, CONTEXTS):
            own = [s["decoding"][n][name] for s in seeds]
            row += [f"{1 / mean([o['seconds'] for o in own]):,.0f}", with_interval([o["ratio"] for o in own], 2)]
        times.append(row)
    heads = [""] + [head for n in CONTEXTS for head in (f"tokens/s after {n:,}", "time against multi-head")]
    said = (
        "CPU time of one thread, medians of paired ratios of interleaved rounds on a busy machine: the ratios are the "
        "result. The latent has its default size here, 4 d."
    )
    return [
        Section("Cache of the trained models, float32",
                [], [table(["", "parameters", "bytes a token, counted", "by the formula"], body, 0)]),
        Section("Decoding", [said], [table(heads, times, 0)]),
        Section("Bits per byte, held out", [], [verdicts(losses(seeds))]),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = seeds[0]["arms"]
    share = {name: f"{one['bytes'] / found['multi-head']['bytes']:.0%}" for name, one in found.items()}
    ratio = {}
    for name in ARMS:
        for n in CONTEXTS:
            ratio[name, n] = f"{mean([s['decoding'][str(n)][name]['ratio'] for s in seeds]):.0%}"
    short, long = CONTEXTS
    return {
        "most": int(found["multi-head"]["bytes"]), "layers": SHAPE["layers"], "heads": MIXER["heads"], "groups": KV,
        "grouped": share["grouped-query"], "single": share["multi-query"], "small": share["latent"], "latent": LATENT,
        "wide": WIDE, "many": HEADS, "two": KV, "context": long, "short": short,
        "fast": ratio["grouped-query", long], "faster": ratio["multi-query", long],
        "near": ratio["grouped-query", short], "nearer": ratio["multi-query", short],
        "parameters": int(found["multi-head"]["parameters"]), "tokens": STEPS * recipe("full").train.batch_tokens,
    }  # fmt: skip
