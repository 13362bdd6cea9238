"""What two models are: vocabularies, special tokens, rendered chats, configs and weights, and why they differ.

Each check yields `(cause, sentence)`. A matrix may differ from the tuned one by what rounding to its kind leaves at
most: with b bits and n numbers to a scale, a block that holds one large number has the largest relative error,

    |w' - w| / |w|  <=  2^(1 - b) sqrt(n / 12)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from llmanac.core.errors import CheckpointError, LlmanacError, TokenizerError, shown
from llmanac.core.spec import diff, flatten
from llmanac.kernels.gguf import GGUF
from llmanac.kernels.gguf.blocks import KINDS
from llmanac.models.gguf.write import LARGEST_HALF, fitting
from llmanac.recipes.verifying.sides import Local, kind_of

ROUNDED = {"float64": 1e-6, "float32": 1e-6, "F32": 1e-6, "float16": 1e-3, "F16": 1e-3, "bfloat16": 6e-3, "BF16": 6e-3}
OTHERWISE = 0.5  # of a quantizer's folder, whose codes may correct each other
MARGIN = 1.25  # for the rounding of the scales themselves
ROWS = 2048  # of a matrix that are compared
ALIKE = 0.5  # cosine of a matrix and the same one, rounded too far
ASKED = [{"role": "user", "content": "What is it?"}]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
Found = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Finding:
    """Why an export differs: the name of the cause (docs/specialize.md lists them), and what was seen."""

    cause: str
    said: str


@dataclass(frozen=True)
class Probes:
    """Texts, and conversations with whether the assistant speaks next, that both sides must read alike."""

    texts: Sequence[str]
    chats: Sequence[tuple[Sequence[Any], bool]]


def compare_files(tuned: Local, other: Local, probes: Probes) -> list[Finding]:
    """All causes that the files show, in the order in which they are to be mended."""
    found: dict[str, Finding] = {}
    for check in CHECKS:
        for cause, said in check(tuned, other, probes, found.keys()):
            found.setdefault(cause, Finding(cause, said))
    return list(found.values())


def unreadable(place: str, error: LlmanacError) -> Finding:
    """Why a file cannot be opened."""
    if lost := next(_not_finite(place), None):
        return Finding("dtype", f"{lost} holds numbers that are not finite: its type cannot hold the weights; "
                                "export as bf16, f32 or q8_0")  # fmt: skip
    return Finding("unreadable", str(error))


def _not_finite(place: str) -> Iterator[str]:
    try:
        if Path(place).is_file():
            file = GGUF(place)
            yield from (name for name in file.names if not math.isfinite(float(file.tensor(name).float32().sum())))
            return
        for path in sorted(Path(place).glob("*.safetensors")):
            with safe_open(path, framework="pt") as tensors:
                yield from (name for name in tensors.keys() if not tensors.get_tensor(name).isfinite().all())  # noqa: SIM118
    except Exception:  # whatever is wrong with the file, its own reader says it
        return


def _vocabulary(tuned: Local, other: Local, probes: Probes, known: Any) -> Found:
    mine, theirs = (_texts(side.tokenizer) for side in (tuned, other))
    differ = [id for id, (a, b) in enumerate(zip_longest(mine, theirs)) if a is not None and a != b]
    if differ:
        first = differ[0]
        there = shown(theirs[first]) if first < len(theirs) else "missing"
        yield (
            "vocabulary",
            (
                f"{len(differ):,} tokens differ: token {first} is {there}, in the tuned model {shown(mine[first])}; "
                "export with the tuned model's own tokenizer"
            ),
        )
    elif tuned.model.vocab_size != other.model.vocab_size:
        yield (
            "vocabulary",
            (f"the embedding has {other.model.vocab_size:,} rows, that of the tuned model {tuned.model.vocab_size:,}"),
        )


def _texts(tokenizer: Any) -> list[bytes | None]:
    out: list[bytes | None] = []
    for id in range(tokenizer.vocab_size):
        try:
            out.append(tokenizer.token_bytes(id))
        except TokenizerError:  # no token has this id
            out.append(None)
    return out


def _begins(tuned: Local, other: Local, probes: Probes, known: Any) -> Found:
    mine, theirs = tuned.tokenizer, other.tokenizer
    if mine.bos_id is None and theirs.bos_id is None:
        return
    bos = theirs.decode([mine.bos_id if theirs.bos_id is None else theirs.bos_id])
    before, after = _rendered(mine), _rendered(theirs)
    if after.startswith(2 * bos) and not before.startswith(2 * bos):
        yield "bos-twice", f"the chat template begins with {bos} twice; keep one"
    elif theirs.adds_bos and not mine.adds_bos:
        if after.startswith(bos):
            yield (
                "bos-twice",
                f"the file adds {bos} (add_bos_token), and its chat template writes it too; set it to false",
            )
        else:
            yield "bos-added", f"the file adds {bos} (add_bos_token), which the tuned model never read; set it to false"
    elif mine.adds_bos and (not theirs.adds_bos or theirs.bos_id != mine.bos_id):
        yield (
            "bos-missing",
            (
                f"texts of the tuned model begin with token {mine.bos_id}, and the file does not add it; set "
                "add_bos_token and bos_token_id"
            ),
        )


def _rendered(tokenizer: Any) -> str:
    try:
        return str(tokenizer.render_chat(ASKED, add_generation_prompt=True))
    except TokenizerError:
        return ""


def _ends(tuned: Local, other: Local, probes: Probes, known: Any) -> Found:
    mine, theirs = tuned.engine.eos_ids, other.engine.eos_ids
    end = _end_of_turn(tuned.tokenizer)
    end = tuned.tokenizer.eos_id if end not in mine else end
    if end in mine and end not in theirs:
        stops = ", ".join(map(str, sorted(theirs))) or "no token"
        yield (
            "end-token",
            (
                f"answers of the tuned model end with token {end} ({tuned.tokenizer.decode([end])}), and the export "
                f"stops at {stops}; set eos_token_id to {end}"
            ),
        )


def _end_of_turn(tokenizer: Any) -> int | None:
    """The token that the template puts after an answer."""
    try:
        ids, mask = tokenizer.encode_chat([*ASKED, {"role": "assistant", "content": "It is."}])
    except TokenizerError:
        return None
    special = set(tokenizer.special_tokens.values())
    return next((id for id, own in zip(ids[::-1], mask[::-1], strict=True) if own and id in special), None)


def _pieces(tuned: Local, other: Local, probes: Probes, known: Any) -> Found:
    if "vocabulary" in known:
        return
    for text in probes.texts:
        mine, theirs = tuned.tokenizer.encode(text), other.tokenizer.encode(text)
        if list(mine) != list(theirs):
            yield (
                "split-pattern",
                (
                    f"{text[:40]!r} is {len(theirs)} tokens, in the tuned model {len(mine)} others: the vocabulary is "
                    "the same, and text is cut in another way (tokenizer.ggml.pre, or pre_tokenizer of tokenizer.json)"
                ),
            )
            return


def _template(tuned: Local, other: Local, probes: Probes, known: Any) -> Found:
    mine, theirs = tuned.tokenizer, other.tokenizer
    if mine.chat_template is None or "vocabulary" in known:
        return
    if theirs.chat_template is None:
        yield "template", "the export has no chat template, and readers guess one; write the tuned model's into it"
        return
    if "split-pattern" in known:
        return
    for messages, prompt in probes.chats:
        before, after = (_ids(tokenizer, messages, prompt) for tokenizer in (mine, theirs))
        if before != after:
            roles = ", ".join(str(message.get("role")) for message in messages)
            yield (
                "template",
                (
                    f"a conversation ({roles}) is rendered as {_count(after)}, by the tuned model's template as "
                    f"{_count(before)}; write the tuned model's template into the export"
                ),
            )
            return


def _ids(tokenizer: Any, messages: Any, prompt: bool) -> list[int] | None:
    """Tokens of a conversation without what begins a text; None where the template refuses it."""
    try:
        ids = list(tokenizer.encode_chat(messages, add_generation_prompt=prompt)[0])
    except TokenizerError:
        return None
    return ids[1:] if ids[:1] == [tokenizer.bos_id] else ids


def _count(ids: list[int] | None) -> str:
    return "refused" if ids is None else f"{len(ids)} tokens"


def _config(tuned: Local, other: Local, probes: Probes, known: Any) -> Found:
    try:
        mine, theirs = (flatten(fitting(side.model)[3]) for side in (tuned, other))
        pairs = {key: (mine.get(key), theirs.get(key)) for key in sorted(mine.keys() | theirs.keys())}
    except CheckpointError:  # what no GGUF file could hold
        pairs = diff(tuned.model.spec, other.model.spec)
    for key, (before, after) in pairs.items():
        if before == after or (
            isinstance(before, float) and after is not None and math.isclose(before, after, rel_tol=1e-5)
        ):
            continue
        if key.startswith("tie_word") or key.endswith(("vocab_size", "tied", "attention_factor")):
            continue  # the weights and tokens say it
        cause = "rope" if any(part in key for part in ("rope", "rotary", "original_max", "position.")) else "config"
        yield (
            cause,
            f"{key} is {shown(after)}, in the tuned model {shown(before)}; convert with the tuned model's config",
        )


def _weights(tuned: Local, other: Local, probes: Probes, known: Any) -> Found:
    wrong, head = {}, "vocabulary" in known
    for name, mine in tuned.weights.items():
        theirs = other.weights.get(name)
        if head and name in (HEAD, EMBEDDING):
            continue
        if theirs is None or theirs.shape != mine.shape:
            yield (
                "weights",
                f"{name} is {'missing' if theirs is None else 'of another shape'}; the models differ in size",
            )
            return
        a, b = _rows(mine), _rows(theirs)
        error = float((b - a).norm() / a.norm().clamp_min(1e-30))
        if not error <= rounding(kind_of(theirs)):
            wrong[name] = (a, b, error, theirs)
    for cause, said in DIAGNOSES:
        names = [name for name, found in wrong.items() if said(name, *found, tuned)]
        if names and (cause != "adapter-not-merged" or len(names) == len(wrong.keys() - {HEAD, EMBEDDING}) or not head):
            worst = max(names, key=lambda name: wrong[name][2])
            yield (
                cause,
                ADVICE[cause].format(count=len(names), of=len(tuned.weights), name=worst, error=wrong[worst][2]),
            )
            for name in names:
                del wrong[name]


def rounding(kind: str) -> float:
    """The largest relative error that rounding to a kind leaves in a matrix."""
    if kind in ROUNDED:
        return ROUNDED[kind]
    if kind not in KINDS:
        return OTHERWISE
    return MARGIN * 2.0 ** (1 - KINDS[kind].bits) * math.sqrt(KINDS[kind].part / 12)


def _rows(weight: Any) -> Tensor:
    """Rows of a matrix, evenly spaced, in float32."""
    dense: Tensor = weight.dense() if hasattr(weight, "dense") else weight.detach()
    step = -(-len(dense) // ROWS)
    return dense[::step].float()


def _is_base(name: str, a: Tensor, b: Tensor, error: float, theirs: Any, tuned: Local) -> bool:
    if name not in tuned.base or tuned.base[name].shape != theirs.shape:
        return False
    base = _rows(tuned.base[name])
    return float((b - base).norm() / base.norm().clamp_min(1e-30)) <= rounding(kind_of(theirs))


def _too_large(name: str, a: Tensor, b: Tensor, error: float, theirs: Any, tuned: Local) -> bool:
    return bool((a.abs() > LARGEST_HALF).any())


def _tied(name: str, a: Tensor, b: Tensor, error: float, theirs: Any, tuned: Local) -> bool:
    return name == HEAD


def _reordered(name: str, a: Tensor, b: Tensor, error: float, theirs: Any, tuned: Local) -> bool:
    if not any(part in name for part in ("q_proj", "k_proj")):
        return False
    before, after = (one.reshape(len(one), -1).norm(dim=1).sort().values for one in (a, b))
    return float((after - before).norm() / before.norm().clamp_min(1e-30)) <= max(rounding(kind_of(theirs)), 1e-3)


def _shifted(name: str, a: Tensor, b: Tensor, error: float, theirs: Any, tuned: Local) -> bool:
    return a.ndim == 1 and "norm" in name and bool(((b - a).abs() - 1).abs().max() < 1e-2)


def _coarse(name: str, a: Tensor, b: Tensor, error: float, theirs: Any, tuned: Local) -> bool:
    alike = float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))
    return kind_of(theirs) not in ROUNDED and alike > ALIKE


def _other(*anything: Any) -> bool:
    return True


# in this order: what the first says of a matrix, the next are not asked
DIAGNOSES: tuple[tuple[str, Callable[..., bool]], ...] = (
    ("adapter-not-merged", _is_base), ("dtype", _too_large), ("quantization", _coarse), ("row-order", _reordered),
    ("norm-shift", _shifted), ("tied-head", _tied), ("weights", _other),
)  # fmt: skip
ADVICE = {
    "adapter-not-merged": "{count} matrices are those of the model before tuning ({name}); merge the adapter "
                          "(`llmanac merge`) and export the result",
    "dtype": "{name} has numbers above 65,504, which float16 cannot hold; export as bf16, f32 or q8_0",
    "row-order": "{count} matrices of queries and keys have their rows in another order ({name}); convert again with a "
                 "converter of this architecture",
    "norm-shift": "{count} norms are off by 1 ({name}), which the family's files store less 1; convert again",
    "tied-head": "the head differs from the tuned one ({name}, relative error {error:.2g}): it was tied, "
                 "or the tuned copy was left out; export it as a tensor of its own",
    "quantization": "{count} matrices are rounded further than their kind needs ({name}, relative error {error:.2g}); "
                    "quantize again from the merged weights",
    "weights": "{count} of {of} tensors are others ({name}, relative error {error:.2g}); export the tuned model again",
}  # fmt: skip
CHECKS = (_vocabulary, _begins, _ends, _pieces, _template, _config, _weights)
