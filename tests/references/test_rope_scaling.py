"""RoPE scalings against ROPE_INIT_FUNCTIONS of transformers; and rows of any length in any company and any pieces."""

from __future__ import annotations

import math

import pytest
import torch
from _small_models import tokens, transformer
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from llmanac.core.errors import CheckpointError, RequestError, SpecError
from llmanac.core.registry import build
from llmanac.core.types import Batch
from llmanac.generate.engine import Engine
from llmanac.generate.prefix_cache import PrefixCache
from llmanac.models.families import Config, family

SHORT, LONG = [1.0, 1.1, 1.3, 1.7], [1.0, 2.0, 5.0, 9.0]
DIM, HEADS, SIZE = 32, 4, 8
SHAPE = {"dim": DIM, "heads": HEADS, "head_dim": SIZE, "max_length": 64}
# theirs, ours: the trained length is 16
SCALINGS = {
    "linear": ({"factor": 4.0}, {"factor": 4.0}),
    "dynamic": ({"factor": 2.0}, {"factor": 2.0}),
    "dynamic-8": ({"factor": 8.0, "rope_theta": 5e5}, {"factor": 8.0}),
    "yarn": ({"factor": 4.0}, {"factor": 4.0}),
    "yarn-attention": ({"factor": 8.0, "attention_factor": 1.7}, {"factor": 8.0, "attention_factor": 1.7}),
    "yarn-scales": (
        {"factor": 8.0, "mscale": 0.7, "mscale_all_dim": 1.0},
        {"factor": 8.0, "attention_factor": (0.07 * math.log(8) + 1) / (0.1 * math.log(8) + 1)},
    ),
    "yarn-ramp": (
        {"factor": 16.0, "beta_fast": 8.0, "beta_slow": 0.5, "truncate": False, "rope_theta": 1e3},
        {"factor": 16.0, "high_frequency_factor": 8.0, "low_frequency_factor": 0.5, "ramp": "exact"},
    ),
    "llama3": (
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"factor": 8.0},
    ),
    "llama3-wide": (
        {"factor": 32.0, "low_freq_factor": 0.5, "high_freq_factor": 2.0, "rope_theta": 5e5},
        {"factor": 32.0, "low_frequency_factor": 0.5, "high_frequency_factor": 2.0},
    ),
    "longrope": (
        {"factor": 4.0, "short_factor": SHORT, "long_factor": LONG},
        {"factor": 4.0, "short_factors": SHORT, "long_factors": LONG},
    ),
    "longrope-attention": (
        {"factor": 4.0, "short_factor": SHORT, "long_factor": LONG, "attention_factor": 1.25},
        {"factor": 4.0, "short_factors": SHORT, "long_factors": LONG, "attention_factor": 1.25},
    ),
}
BY_LENGTH = ("dynamic", "longrope")


def pair(name):
    """Their config and our fields."""
    theirs, ours = SCALINGS[name]
    kind = name.partition("-")[0]
    rope = {"rope_type": kind, "rope_theta": 1e4, "original_max_position_embeddings": 16, **theirs}
    # for `dynamic` the trained length is max_position_embeddings
    config = LlamaConfig(
        hidden_size=DIM, num_attention_heads=HEADS, rope_parameters=rope,
        max_position_embeddings=16 if kind == "dynamic" else 64,
    )  # fmt: skip
    return config, {"theta": rope["rope_theta"], "scaling": {"type": kind, "original_length": 16, **ours}}


def frequencies(position, lengths):
    if not position.by_length:
        return position.frequencies
    return position.scaling.for_lengths(position.frequencies, position.theta, lengths)


@pytest.mark.parametrize("length", [5, 16, 17, 40, 64])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_equal_transformers(name, length):
    config, fields = pair(name)
    kind = fields["scaling"]["type"]
    expected, amplitude = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
    position = build("position", "rope", **fields, **SHAPE)
    found = frequencies(position, torch.tensor([length])).view(-1)
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)
    assert position.scaling.amplitude == pytest.approx(amplitude, rel=1e-12)
    plain = build("position", "rope", theta=position.theta, **SHAPE).frequencies
    assert (found / plain - 1).abs().max() > 0.1 or (kind in BY_LENGTH and length <= 16)


def read(config, **changes):
    """The Spec that a Llama config asks for; a change to None leaves a key out."""
    data = {"intermediate_size": 64, **config, **changes}
    return family("llama").to_spec(Config({k: v for k, v in data.items() if v is not None}, "config.json"))[0]


@pytest.mark.parametrize("name", SCALINGS)
def test_configs_old_and_new_ask_for_it(name):
    """`rope_parameters`, and `rope_scaling` with `type` or `rope_type`; what is written says the same in both."""
    config, fields = pair(name)
    data = config.to_dict()
    made = build("position", "rope", **fields, **SHAPE)
    spec = read(data)
    assert spec.position.theta == made.theta
    found = spec.position.build(**SHAPE)
    assert found.scaling.amplitude == pytest.approx(made.scaling.amplitude, rel=1e-12)
    lengths = torch.tensor([[3, 16, 17, 200]])
    assert torch.equal(frequencies(found, lengths), frequencies(made, lengths))
    table = data["rope_parameters"]
    for key in ("rope_type", "type"):
        old = {k: v for k, v in table.items() if k not in ("rope_type", "rope_theta")} | {key: table["rope_type"]}
        assert read(data, rope_parameters=None, rope_scaling=old, rope_theta=table["rope_theta"]) == spec
    bare = {k: v for k, v in table.items() if k != "original_max_position_embeddings"}  # one outside comes first
    assert read(data, rope_parameters=bare, original_max_position_embeddings=16) == spec
    written = family("llama").to_config(spec, 61)
    assert read(written).position == read(written, rope_scaling=None).position == spec.position
    assert read(written, rope_parameters=None) == read(written)
    assert read(written).max_length == (16 * table["factor"] if table["rope_type"] == "dynamic" else 64)
    with pytest.raises(CheckpointError, match="say different things"):
        read(written, rope_parameters={**written["rope_parameters"], "factor": 2.5})


def test_lengths_and_factors_that_are_left_out_follow_from_others():
    config = pair("longrope")[0].to_dict()
    table = {"type": "su", "short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 16}
    scaling = read(config, rope_parameters=None, rope_scaling=table).position.scaling
    assert (scaling.factor, scaling.original_length, scaling.attention_factor) == (4.0, 16, None)
    scaling = read(config, rope_parameters={"rope_type": "yarn", "factor": 4.0}).position.scaling
    assert (scaling.original_length, scaling.ramp) == (64, "whole")
    for wrong, message in (
        ({**table, "short_factor": [1.0, True]}, "short_factor has True, expected numbers above 0"),
        ({**table, "long_factor": "x"}, "long_factor is 'x', expected a list of numbers"),
        ({"type": "yarn", "factor": "x"}, "factor is 'x', expected a number"),
        ({"type": "yarn", "factor": 2.0, "truncate": 3}, "truncate is 3, expected true or false"),
        ({"type": "dynamic", "factor": 2.0, "alpha": 1000.0}, "alpha = 1000.0 is not known"),
    ):
        with pytest.raises(CheckpointError, match=f"config.json: rope_scaling: {message}"):
            read(config, rope_parameters=None, rope_scaling=wrong)


@pytest.mark.parametrize("name", SCALINGS)
def test_turned_queries_equal_llama(name):
    config, fields = pair(name)
    position, q = build("position", "rope", **fields, **SHAPE), torch.randn(2, 40, HEADS, SIZE, dtype=torch.float64)
    at = torch.arange(40)[None]
    cos, sin = LlamaRotaryEmbedding(config)(q, at)
    expected, _ = apply_rotary_pos_emb(q, q, cos, sin, unsqueeze_dim=2)
    found = position.rotate(q, position.prepare(at, torch.float64))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def model_of(name):
    return transformer(position={"name": "rope", **pair(name)[1]})


@pytest.mark.parametrize("name", BY_LENGTH)
def test_a_short_row_after_a_long_one_is_as_it_is_alone(name):
    model, short, long = model_of(name), tokens(1, 9), tokens(1, 40, seed=5)
    before = model(short).logits
    first = model(long).logits
    assert torch.equal(model(short).logits, before) and torch.equal(model(long).logits, first)
    state = model.start(1)
    model(long, state)
    assert torch.equal(model(short, model.start(1)).logits, before)
    unscaled = transformer(position={"name": "rope", "theta": model.spec.position.theta})
    assert (unscaled(long).logits - first).abs().max() > 1e-2
    if name == "dynamic":  # up to the trained length nothing is scaled
        torch.testing.assert_close(unscaled(short).logits, before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", BY_LENGTH)
def test_batch_mates_and_neighbours_in_a_packed_row_do_not_count(name):
    model, lengths = model_of(name), [9, 40, 17]
    rows = [tokens(1, n, seed=n) for n in lengths]
    alone = [model(row).logits[0] for row in rows]
    padded = Batch.padded([row[0].tolist() for row in rows])
    for i, expected in enumerate(alone):
        torch.testing.assert_close(model(padded).logits[i, : lengths[i]], expected, rtol=0, atol=1e-12)
    packed = Batch(
        ids=torch.cat(rows, 1),
        segments=torch.repeat_interleave(torch.tensor([4, 2, 7]), torch.tensor(lengths))[None],
        positions=torch.cat([torch.arange(n) for n in lengths])[None],
    )
    torch.testing.assert_close(model(packed).logits[0], torch.cat(alone), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", BY_LENGTH)
def test_decoding_across_the_trained_length_equals_one_pass(name):
    """A row that is planned for 40 tokens is read as a row of 40 from its first token on, in any pieces and company."""
    model, lengths = model_of(name), [40, 12, 30]
    rows = [tokens(1, n, seed=n) for n in lengths]
    full = [model(row).logits[0] for row in rows]
    with torch.inference_mode():
        state, held = model.start(3), [0, 0, 0]
        state.plan(lengths)
        for step in ((7, 3, 0), (1, 1, 1), (8, 2, 15), (1, 1, 1), (10, 3, 2), (13, 2, 11)):
            chunk = torch.zeros(3, max(step), dtype=torch.long)
            for row, count in enumerate(step):
                chunk[row, :count] = rows[row][0, held[row] : held[row] + count]
            logits = model(Batch(ids=chunk, lengths=torch.tensor(step)), state).logits
            for row, count in enumerate(step):
                expected = full[row][held[row] : held[row] + count]
                torch.testing.assert_close(logits[row, :count], expected, rtol=0, atol=1e-10)
                held[row] += count
        assert held == lengths
        for made in (state.select(torch.tensor([2, 0])), model.start(1).join(state)):
            assert [row.planned for row in made.rows][-2:] in ([30, 40], [12, 30])
        state.arrange([1, 2])
        assert [row.planned for row in state.rows] == [12, 30]


@pytest.mark.parametrize("name", BY_LENGTH)
def test_without_a_plan_the_first_piece_decides(name):
    model, ids = model_of(name), tokens(1, 30)
    with torch.inference_mode():
        state = model.start(1)
        first = model(ids[:, :10], state).logits
        torch.testing.assert_close(first, model(ids[:, :10]).logits, rtol=0, atol=1e-12)
        rest = torch.cat([model(part, state).logits for part in ids[:, 10:].split((1, 9, 10), 1)], 1)
        other = model.start(1)
        other.plan([10])
        torch.testing.assert_close(model(ids, other).logits, model(ids).logits, rtol=0, atol=1e-10)  # it holds 30
        again = model.start(1)
        model(ids[:, :10], again)
        torch.testing.assert_close(model(ids[:, 10:], again).logits, rest, rtol=0, atol=1e-10)
        mark = again.mark()
        again.rewind(None, [0])
        torch.testing.assert_close(model(ids[:, :10], again).logits, first, rtol=0, atol=1e-12)
        assert mark.lengths == (30,)


@pytest.mark.parametrize("name", BY_LENGTH)
def test_the_engine_plans_each_row_by_itself(name):
    """The answers of requests together are those of each alone, and a cache of beginnings is refused."""
    model = model_of(name)
    prompts = [tokens(1, n, seed=n)[0].tolist() for n in (4, 12, 30)]

    def answers(requests):
        return [a.ids for a in Engine(model).generate(requests, max_new_tokens=10)]

    together = answers(prompts)
    assert together == [answers([p])[0] for p in prompts]
    assert answers([prompts[0]])[0] == together[0]  # after the long ones too
    full = list(prompts[1])
    for _ in range(10):  # 12 + 10 tokens: past the trained length, under one set of frequencies
        state = model.start(1)
        state.plan([22])
        full.append(int(model(torch.tensor([full]), state).logits[0, -1].argmax()))
    assert list(together[1]) in (full, full[12:])
    assert not PrefixCache.fits(model) and PrefixCache.fits(transformer())
    with pytest.raises(RequestError, match=r"prefix_cache_bytes: .*keys that depend on a row's length"):
        PrefixCache(model, 2**20)


def test_errors_name_the_field():
    for scaling, message in (
        ({"type": "yarn", "factor": 0.5}, r"scaling\.factor: 0\.5 must be at least 1"),
        ({"type": "yarn", "factor": 2.0, "original_length": 1}, r"original_length: 1 must be at least 2"),
        ({"type": "yarn", "factor": 2.0, "low_frequency_factor": 40.0}, r"low_frequency_factor: must be above 0 and"),
        ({"type": "linear", "factor": 2.0, "attention_factor": 1.5}, r"attention_factor: .* only yarn and longrope"),
        ({"type": "longrope", "factor": 2.0, "short_factors": SHORT}, r"long_factors: longrope needs them"),
        ({"type": "yarn", "factor": 2.0, "long_factors": LONG}, r"long_factors: longrope needs them, and no other"),
        (
            {"type": "longrope", "factor": 2.0, "short_factors": SHORT, "long_factors": [*LONG, 1.0]},
            r"scaling\.long_factors: 5 numbers, but 4 pairs a head rotate",
        ),
        (
            {"type": "longrope", "factor": 2.0, "short_factors": [0.0], "long_factors": [1.0]},
            r"short_factors: 0\.0 must be above 0",
        ),
    ):
        with pytest.raises(SpecError, match=message):
            build("position", "rope", scaling=scaling, **SHAPE)
    with pytest.raises(SpecError, match=r"theta: 1\.0 must be above 1 for yarn"):
        build("position", "rope", theta=1.0, scaling={"type": "yarn", "factor": 2.0}, **SHAPE)
    with pytest.raises(SpecError, match=r"scaling\.type: dynamic needs at least two pairs"):
        build("position", "rope", scaling={"type": "dynamic", "factor": 2.0}, **{**SHAPE, "head_dim": 2})
