"""No part breaks another: a set of composed models in which every two methods of different kinds meet at least once.

Two methods that cannot be combined are refused when the model is built, with a sentence that names the field. What a
part does not claim to support (packed rows, rewinding) is not asked of a model that has it.
"""

from __future__ import annotations

import functools
import itertools
import random

import pytest
import torch
from _small_models import VOCABULARY, gradients, randomise, shifted, tokens
from test_models import BASE, PLACES, SOURCE, claims
from torch.utils.flop_counter import FlopCounterMode

from llmanac.core import registry
from llmanac.core.errors import SpecError
from llmanac.core.spec import make_method, patch
from llmanac.core.types import Batch
from llmanac.models.load import load_model

MODEL, BLOCK = ("position", "norm", "head"), ("block", "mixer", "ffn", "score")  # parents before their children
BLOCKS = 3  # of a model, each with parts of its own: a hybrid
# Methods, and of their aliases those that make other shapes: names that differ in a literal have tests of their own.
OWN = {
    "experts": {"name": "experts", "experts": 3},  # so that each of them is chosen by some token of a short batch
    "latent": {"name": "latent", "rotary_dim": 8},  # rope needs one size in all blocks
}
FURTHER = {"mixer": ["grouped-query", {"name": "sliding-window", "window": 5}], "ffn": ["geglu"]}
Row = dict[tuple[str, int], int]  # of each place (kind, block), which of the kind's choices; the model's own have -1


def choices():
    """The choices of each kind."""
    kinds = (*MODEL, *BLOCK)
    plain = {k: [n for n, m in registry.methods(k).items() if not m.defaults and (k, n) not in SOURCE] for k in kinds}
    found = {kind: [*names, *FURTHER.get(kind, [])] for kind, names in plain.items()}
    return {kind: [OWN.get(n, n) if isinstance(n, str) else n for n in names] for kind, names in found.items()}


def composed(row, names):
    """The Spec of a row, with a block for each that it has parts of. Raises SpecError where two do not go together."""
    count = 1 + max(0, *(at for _, at in row))
    spec = make_method("lm", {**BASE, "layers": max(2, count), "blocks": [{"name": "pre-norm"}] * count})
    for at in (-1, *range(count)):
        for kind in MODEL if at < 0 else BLOCK:
            if (kind, at) in row:
                place = PLACES[kind].replace("*", str(at))
                spec = patch(spec, {place: names[kind][row[kind, at]]})
    with torch.device("meta"):
        spec.build(vocab_size=VOCABULARY)
    return spec


def pairs_of(row):
    """The choices that meet: in one block, a block's with the model's, and the mixers of different blocks."""
    found = set()
    for ((a, at), i), ((b, to), j) in itertools.combinations(row.items(), 2):
        if at == to or -1 in (at, to) or (a == b == "mixer" and i != j):
            found.add(tuple(sorted([(a, i), (b, j)])))
    return found


def refused(names):
    """The pairs that cannot be combined."""
    found = {}
    for kind, other in itertools.combinations(sorted(names), 2):
        for i, j in itertools.product(range(len(names[kind])), range(len(names[other]))):
            try:
                composed({(k, -1 if k in MODEL else 0): n for k, n in ((kind, i), (other, j))}, names)
            except SpecError as error:
                found[(kind, i), (other, j)] = str(error)
    return found


def wanted(names, never):
    """Every pair that can meet. A position that acts on scores meets a mixer without any in a hybrid."""
    found = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(sorted(names), 2)
        for i, j in itertools.product(range(len(names[a])), range(len(names[b])))
    }
    found |= {(("mixer", i), ("mixer", j)) for i, j in itertools.combinations(range(len(names["mixer"])), 2)}
    return found - {pair for pair in never if {kind for kind, _ in pair} != {"mixer", "position"}}


def fits(row, never):
    """Whether a row's parts go together: with a position that acts on scores one mixer has to have some."""
    hard = {pair for pair in pairs_of(row) & never if {kind for kind, _ in pair} != {"mixer", "position"}}
    mixers = [("mixer", i) for (kind, _), i in row.items() if kind == "mixer"]
    place = ("position", row.get(("position", -1), -1))
    return not hard and (len(mixers) < BLOCKS or any((mixer, place) not in never for mixer in mixers))


def cover(names, never, seed=0):
    """Rows in which every pair that can meet does; greedily, so not the fewest.

    Each row begins with a pair that is missing; the other places get, in random order, the choice that adds most.
    """
    generator = random.Random(seed)
    places = [(kind, -1) for kind in MODEL] + [(kind, at) for at in range(BLOCKS) for kind in BLOCK]
    missing = wanted(names, never)
    rows = []
    while missing:
        best: Row = {}
        for _ in range(6):
            row: Row = {}
            for kind, choice in generator.choice(sorted(missing)):
                row[kind, -1 if kind in MODEL else int((kind, 0) in row)] = choice
            for place in generator.sample(places, len(places)):
                if place in row:
                    continue
                allowed = [i for i in range(len(names[place[0]])) if fits({**row, place: i}, never)]
                if allowed:
                    gains = {i: len(pairs_of({**row, place: i}) & missing) for i in allowed}
                    row[place] = generator.choice([i for i in allowed if gains[i] == max(gains.values())])
            if fits(row, never) and len(pairs_of(row) & missing) > len(pairs_of(best) & missing):
                best = row
        rows.append(best)
        missing -= pairs_of(best)
    return rows


NAMES = choices()
PARTS = 20  # tests that share the rows


@functools.cache
def pairs_refused():
    return refused(NAMES)


@functools.cache
def rows():
    """Found when a test first needs them: every worker collects this file, and one of them runs it."""
    return cover(NAMES, pairs_refused().keys())


def rows_of(part):
    for row in rows()[part::PARTS]:
        print(title(row))  # shown where it fails
        yield row


def title(row):
    return ",".join(str(n if isinstance(n := NAMES[k][i], str) else n["name"]) for (k, _), i in sorted(row.items()))


def test_what_cannot_be_combined_is_refused_by_name():
    for ((kind, _), (other, _)), message in pairs_refused().items():
        assert any(f"{k}: " in message or f".{k}" in message for k in (kind, other)), message


def test_every_pair_is_in_a_row():
    found = set().union(*(pairs_of(row) for row in rows()))
    assert all(NAMES.values())
    assert wanted(NAMES, pairs_refused().keys()) <= found
    assert not any(not fits(row, pairs_refused().keys()) for row in rows())
    assert len(rows()) < 100  # each costs a second


@pytest.mark.parametrize("part", range(PARTS))
def test_parts_work_together(part, tmp_path):
    for number, row in enumerate(rows_of(part)):
        works(row, tmp_path / str(number))


def works(row, folder):
    spec = composed(row, NAMES)
    model = randomise(spec.build(vocab_size=VOCABULARY)).double().eval()
    ids = tokens(2, 12)

    # decoding in pieces gives what one pass gives
    with torch.inference_mode():
        full = model(ids).logits
        for pieces in ((5, 1, 6), (1,) * 12):
            state = model.start(2)
            parts = torch.cat([model(part, state).logits for part in ids.split(pieces, 1)], 1)
            torch.testing.assert_close(parts, full, rtol=0, atol=1e-9)
        state = model.start(2)
        model(ids[:, :5], state)
        mark = state.mark()
        model(ids[:, 5:9], state)
        back = [7, 5] if claims(model, "rewind") else [5, 5]
        state.rewind(mark, back)
        again = model(torch.stack([row[n : n + 3] for row, n in zip(ids, back, strict=True)]), state).logits
        expected = torch.stack([row[n : n + 3] for row, n in zip(full, back, strict=True)])
        torch.testing.assert_close(again, expected, rtol=0, atol=1e-9)
        if claims(model, "packed"):
            segments = (torch.arange(12) >= 5).long()[None].expand(2, -1)
            positions = torch.cat([torch.arange(5), torch.arange(7)])[None].expand(2, -1)
            packed = model(Batch(ids=ids, segments=segments, positions=positions)).logits
            torch.testing.assert_close(packed[:, :5], full[:, :5], rtol=0, atol=1e-9)
            torch.testing.assert_close(packed[:, 5:], model(ids[:, 5:]).logits, rtol=0, atol=1e-9)

    # one training step: everything learns, and the loss falls
    batch, optimizer = shifted(ids), torch.optim.SGD(model.parameters(), lr=1e-8)
    loss = model.nll(batch)
    loss.backward()
    learned = gradients(model)
    still = [k for k, _ in model.named_parameters() if k not in learned or not learned[k].abs().sum() > 0]
    assert [k for k in still if ".experts." not in k or k not in learned] == []  # one that no token chose has zeros
    assert all(value.isfinite().all() for value in learned.values())
    optimizer.step()
    assert model.nll(batch) < loss

    # a folder keeps all of it
    model = model.float()
    model.save_pretrained(folder)
    again = load_model(folder)
    assert again.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(again(ids).logits, model(ids).logits, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("part", range(PARTS))
def test_counts_equal_the_counted(part):
    """Parameters of the tensors, and FLOPs of the products where every query sees every key."""
    for row in rows_of(part):
        counts(row)


def counts(row):
    model = composed(row, NAMES).build(vocab_size=VOCABULARY).eval()
    model.attention_form = "plain"
    assert model.parameter_count() == sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    for layer in model.model.layers:
        if getattr(layer.self_attn, "window", None):
            layer.self_attn.window = None
    with FlopCounterMode(display=False) as counter:
        model(tokens(1, 32))
    # what a filter is made with, once for all rows, is no part of a token's work
    once = sum(getattr(layer.self_attn, "kernel_flops", lambda n: 0.0)(32) for layer in model.model.layers)
    # disentangled positions count both of their products as wide as queries; of grouped keys one is narrower
    near = 0.05 if "disentangled" in title(row) else 0.01
    assert abs((counter.get_total_flops() - once) / (32 * model.forward_flops(32)) - 1) < near
