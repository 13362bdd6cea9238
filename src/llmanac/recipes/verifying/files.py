"""What two models are: vocabularies, special tokens, rendered chats, configs and weights, and why they differ.

Each check yields the entry of `causes.toml` and what its sentence is filled with. A matrix may differ from the tuned
one by what rounding to its kind leaves at most: with b bits and n numbers to a scale, a block with one large number has
the largest relative error,

    |w' - w| / |w|  <=  2^(1 - b) sqrt(n / 12)
"""

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import cosine_similarity

from llmanac.core.errors import CheckpointError, LlmanacError, shown
from llmanac.core.files import read_toml
from llmanac.core.spec import diff, flatten
from llmanac.kernels.gguf import GGUF
from llmanac.kernels.gguf.blocks import KINDS
from llmanac.models.gguf.write import LARGEST_HALF, fitting
from llmanac.models.quantized import dense
from llmanac.recipes.verifying.sides import LocalSide, kind_of, tried

CAUSES = read_toml(Path(__file__).with_name("causes.toml"))
ROUNDED = {"float64": 1e-6, "float32": 1e-6, "F32": 1e-6, "float16": 1e-3, "F16": 1e-3, "bfloat16": 6e-3, "BF16": 6e-3}
OTHERWISE = 0.5  # of a quantizer's folder, whose codes may correct each other
MARGIN = 1.25  # for the rounding of the scales themselves
ROWS = 2048  # of a matrix that are compared
MERGED = 0.25  # of a change, below which a file is the base; where that was on a grid of 4 bits, rounding takes half
ALIKE = 0.5  # cosine of a matrix and the same one, rounded too far
ASKED = [{"role": "user", "content": "What is it?"}]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
ROTATION = ("rope", "rotary", "original_max", "position.")  # parts of keys
SAID = ("tie_word_embeddings", "vocab_size", "tied", "attention_factor")  # keys that weights and tokens speak for
Found = Iterator[tuple[str, dict[str, Any]]]
# texts, and conversations with whether the assistant speaks next, that both sides must read alike
Probes = tuple[Sequence[str], Sequence[tuple[Sequence[Any], bool]]]


@dataclass(frozen=True)
class CauseFound:
    """Why an export differs: the name of the cause (docs/specialize.md lists them), and what was seen."""

    cause: str
    said: str


def finding(entry: str, **fields: Any) -> CauseFound:
    """A cause by its entry of `causes.toml`."""
    return CauseFound(CAUSES[entry].get("cause", entry), CAUSES[entry]["says"].format(**fields))


def compare_files(tuned: LocalSide, other: LocalSide, probes: Probes) -> list[CauseFound]:
    """All causes that the files show, in the order in which they are to be mended."""
    found: dict[str, CauseFound] = {}
    for check in CHECKS:
        for entry, fields in check(tuned, other, probes, set(found)):
            one = finding(entry, **fields)
            found.setdefault(one.cause, one)
    return list(found.values())


def unreadable(place: str, error: LlmanacError) -> CauseFound:
    """Why a file cannot be opened."""
    try:
        file = GGUF(place)
        lost = next((name for name in file.names if not np.isfinite(file.tensor(name).float32()).all()), None)
    except (OSError, LlmanacError):  # no such file: its own reader says why
        lost = None
    return finding("unreadable", error=error) if lost is None else finding("dtype", name=lost)


def _vocabulary(tuned: LocalSide, other: LocalSide, probes: Probes, known: set[str]) -> Found:
    mine, theirs = (
        [tried(side.tokenizer.token_bytes, id) for id in range(side.tokenizer.vocab_size)] for side in (tuned, other)
    )
    differ = [id for id, (a, b) in enumerate(zip_longest(mine, theirs)) if a is not None and a != b]
    sizes = {"here": tuned.size, "there": other.size}
    if differ:
        there = shown(theirs[differ[0]]) if differ[0] < len(theirs) else "missing"
        yield "vocabulary", {"count": len(differ), "id": differ[0], "there": there, "here": shown(mine[differ[0]])}
    elif sizes["here"] != sizes["there"]:
        yield "vocabulary-size", sizes


def _begins(tuned: LocalSide, other: LocalSide, probes: Probes, known: set[str]) -> Found:
    mine, theirs = tuned.tokenizer, other.tokenizer
    id = mine.bos_id if theirs.bos_id is None else theirs.bos_id
    if id is None:
        return
    bos = theirs.decode([id])
    before, after = (tried(one.render_chat, ASKED, add_generation_prompt=True) or "" for one in (mine, theirs))
    if after.startswith(2 * bos) and not before.startswith(2 * bos):
        yield "bos-in-template", {"bos": bos}
    elif theirs.adds_bos and not mine.adds_bos:
        yield "bos-twice" if after.startswith(bos) else "bos-added", {"bos": bos}
    elif mine.adds_bos and (not theirs.adds_bos or theirs.bos_id != mine.bos_id):
        yield "bos-missing", {"id": mine.bos_id}


def _ends(tuned: LocalSide, other: LocalSide, probes: Probes, known: set[str]) -> Found:
    mine, theirs = tuned.engine.eos_ids, other.engine.eos_ids
    end = end_of_turn(tuned.tokenizer)
    end = tuned.tokenizer.eos_id if end not in mine else end
    if end in mine and end not in theirs:
        yield "end-token", {"id": end, "text": tuned.tokenizer.decode([end]), "stops": sorted(theirs) or "no token"}


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the template puts after an answer; None without one."""
    ids, mask = tried(tokenizer.encode_chat, [*ASKED, {"role": "assistant", "content": "It is."}]) or ((), ())
    special = set(tokenizer.special_tokens.values())
    return next((id for id, own in zip(ids[::-1], mask[::-1], strict=True) if own and id in special), None)


def _pieces(tuned: LocalSide, other: LocalSide, probes: Probes, known: set[str]) -> Found:
    for text in () if "vocabulary" in known else probes[0]:
        here, there = tuned.tokenizer.encode(text), other.tokenizer.encode(text)
        if list(here) != list(there):
            yield "split-pattern", {"text": text[:40], "here": len(here), "there": len(there)}


def _template(tuned: LocalSide, other: LocalSide, probes: Probes, known: set[str]) -> Found:
    if tuned.tokenizer.chat_template is None or "vocabulary" in known:
        return
    if other.tokenizer.chat_template is None:
        yield "template-missing", {}
    for messages, prompt in () if "split-pattern" in known else probes[1]:
        here, there = (_ids(side.tokenizer, messages, prompt) for side in (tuned, other))
        if here != there:
            counts = ("refused" if ids is None else f"{len(ids)} tokens" for ids in (here, there))
            roles = ", ".join(str(message.get("role")) for message in messages)
            yield "template", {"roles": roles, **dict(zip(("here", "there"), counts, strict=True))}


def _ids(tokenizer: Any, messages: Any, prompt: bool) -> Any:
    """Tokens of a conversation without what begins a text; None where the template refuses it."""
    ids = tried(tokenizer.chat_ids, messages, add_generation_prompt=prompt)
    return ids[1:] if ids and ids[0] == tokenizer.bos_id else ids


def _config(tuned: LocalSide, other: LocalSide, probes: Probes, known: set[str]) -> Found:
    try:
        mine, theirs = (flatten(fitting(side.model)[3]) for side in (tuned, other))
        pairs = {key: (mine.get(key), theirs.get(key)) for key in sorted(mine.keys() | theirs.keys())}
    except CheckpointError:  # what no GGUF file could hold
        pairs = diff(tuned.model.spec, other.model.spec)
    for key, (here, there) in pairs.items():
        close = isinstance(here, float) and there is not None and math.isclose(here, there, rel_tol=1e-5)
        if here != there and not close and not key.endswith(SAID):
            entry = "rope" if any(part in key for part in ROTATION) else "config"
            yield entry, {"key": key, "here": shown(here), "there": shown(there)}


def _weights(tuned: LocalSide, other: LocalSide, probes: Probes, known: set[str]) -> Found:
    wrong: dict[str, Pair] = {}
    merged: dict[str, float] = {}
    for name, mine in tuned.weights.items():
        theirs = other.weights.get(name)
        if "vocabulary" in known and name in (HEAD, EMBEDDING):
            continue
        if theirs is None or theirs.shape != mine.shape:
            yield "sizes", {"name": name}
            return
        pair = Pair(name, rows_of(mine), rows_of(theirs), rounding(kind_of(theirs)), tuned)
        if not pair.error <= pair.limit:
            wrong[name] = pair
        if pair.is_base:
            merged[name] = pair.merged
    if merged:  # a change below the rounding shows in the mean, and in no matrix by itself
        part = statistics.fmean(merged.values())
        named = list(merged) if part < MERGED else [name for name in merged if name in wrong]
        if named:
            yield "adapter-not-merged", {"count": len(named), "name": named[0], "part": max(part, 0.0)}
        wrong = {name: pair for name, pair in wrong.items() if name not in named}
    for entry, said in DIAGNOSES.items():
        pairs = [pair for pair in wrong.values() if said(pair)]
        if pairs:
            worst = max(pairs, key=lambda pair: pair.error)
            yield entry, {"count": len(pairs), "name": worst.name, "error": worst.error}
        wrong = {name: pair for name, pair in wrong.items() if pair not in pairs}


@dataclass(frozen=True, eq=False)
class Pair:
    """A tensor of the tuned model, that of the export, and the relative error that its kind may leave."""

    name: str
    here: Tensor
    there: Tensor
    limit: float
    tuned: LocalSide

    @property
    def error(self) -> float:
        return relative(self.there, self.here)

    @cached_property
    def base(self) -> Tensor | None:
        """The rows before the tuning, where it changed them."""
        base = self.tuned.base.get(self.name)
        rows = None if base is None else rows_of(base)
        return rows if rows is not None and rows.shape == self.here.shape and not rows.equal(self.here) else None

    @property
    def is_base(self) -> bool:
        """Whether it may be the base, by what rounding leaves; the tuned rows may be within it too."""
        return self.base is not None and relative(self.there, self.base) <= self.limit

    @property
    def merged(self) -> float:
        """The part of the change that is in the export, its projection on the change: 0 for the base, 1 if merged."""
        assert self.base is not None
        change = (self.here - self.base).double()
        return float(((self.there - self.base) * change).sum() / change.square().sum())


def relative(there: Tensor, here: Tensor) -> float:
    """The error of a tensor over the size of the other."""
    return float((there - here).norm() / here.norm().clamp_min(1e-30))


def lengths(matrix: Tensor) -> Tensor:
    """Of the rows, in order of their size."""
    return matrix.reshape(len(matrix), -1).norm(dim=1).sort().values


def rounding(kind: str) -> float:
    """The largest relative error that rounding to a kind leaves in a matrix."""
    if kind in ROUNDED:
        return ROUNDED[kind]
    return MARGIN * 2.0 ** (1 - KINDS[kind].bits) * math.sqrt(KINDS[kind].part / 12) if kind in KINDS else OTHERWISE


def rows_of(weight: Any) -> Tensor:
    """Rows of a matrix, evenly spaced, in float32."""
    values = dense(weight).detach()
    return values[:: -(-len(values) // ROWS)].float()


# in this order: of what the first names, the next are not asked
DIAGNOSES: dict[str, Callable[[Pair], bool]] = {
    "dtype": lambda pair: bool((pair.here.abs() > LARGEST_HALF).any()),
    "quantization": lambda pair: (
        pair.limit > max(ROUNDED.values())
        and bool(cosine_similarity(pair.here.flatten(), pair.there.flatten(), 0) > ALIKE)
    ),
    "row-order": lambda pair: (
        any(part in pair.name for part in ("q_proj", "k_proj"))
        and relative(lengths(pair.there), lengths(pair.here)) <= max(pair.limit, 1e-3)
    ),
    "norm-shift": lambda pair: "norm" in pair.name and bool(((pair.there - pair.here).abs() - 1).abs().max() < 1e-2),
    "tied-head": lambda pair: pair.name == HEAD,
    "weights": lambda pair: True,
}
CHECKS = (_vocabulary, _begins, _ends, _pieces, _template, _config, _weights)
