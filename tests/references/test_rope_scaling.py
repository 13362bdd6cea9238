"""RoPE scalings against ROPE_INIT_FUNCTIONS of transformers; and rows of any length in any company and any pieces."""

from __future__ import annotations

import math

import pytest
import torch
from _small_models import block, randomise, tokens, transformer
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from llmanac.core.errors import CheckpointError, RequestError, SpecError
from llmanac.core.registry import build
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.evaluate.likelihood import loglikelihood
from llmanac.generate.engine import Engine
from llmanac.generate.runner import TorchRunner, on_host, prefix_cache
from llmanac.models.families import Config, family
from llmanac.models.load import load_model

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


def model_of(name, **fields):
    return transformer(position={"name": "rope", **pair(name)[1]}, **fields)


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


class FromTheStart(TorchRunner):
    """Reads a row from its first token on for each of its logits, as one of the length that `read_again` goes by."""

    def extend(self, prompts, reserve, planned=(), adapters=(), images=()):
        self.held = [*getattr(self, "held", []), *([] for _ in prompts)]
        return [0] * len(prompts)

    def read(self, start, tokens, *, every, source=None):
        rows = []
        for held, new in zip(self.held[start:], tokens, strict=False):
            held += new
            ends = range(len(held) - len(new) + 1, len(held) + 1) if every else [len(held)]
            rows.append(torch.cat([self._last(held[:end]) for end in ends]))
        return on_host(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))

    def _last(self, held):
        state = self.model.start(1)
        state.plan([self.model.model.position.scaling.lasts(len(held))])
        return self.model(torch.tensor([held]), state).logits[0, -1:]

    def lasts(self, row):
        return math.inf

    def mark(self, start, stop):
        return None

    def rewind(self, start, mark, lengths, marked):
        for held, length in zip(self.held[start:], lengths, strict=False):
            del held[length:]
        return list(lengths)

    def arrange(self, order):
        self.held = [list(self.held[i]) for i in order]

    def reset(self):
        self.held = []


WAYS = {
    "greedy": {},
    "samples": {"n": 3, "temperature": 1.0, "seed": 5},
    "beams": {"beams": 3, "n": 2},
    "scored": {"logprobs": 2, "prompt_logprobs": 0},
}
MORE = {
    "alone": {"rows": 1},
    "together": {},
    "put back": {"max_num_batched_tokens": 80},
    "drafts": {"drafter": "prompt-lookup"},
    "a draft model": {"drafter": "model", "draft_model": "itself"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BY_LENGTH)
def test_what_is_generated_does_not_depend_on_how_much_may_be(name, way):
    """Rows that pass the trained length are read again: in any company, with drafts, and where rows are put back."""
    model = model_of(name)
    prompts = [tokens(1, n, seed=n)[0].tolist() for n in (4, 12, 16, 17, 30)]

    def answers(engine, most):
        found = engine.generate(prompts, max_new_tokens=most, **WAYS[way])
        return [(answer.ids, answer.logprobs) for answer in found]

    reference = Engine(model)
    reference.make_runner = lambda: FromTheStart(model)
    expected = answers(reference, 30)
    for kind, choices in MORE.items():
        choices = {key: model if value == "itself" else value for key, value in choices.items()}
        engine = Engine(model, **choices)
        engine.speculation.always = True
        for (ids, logprobs), (wanted, values) in zip(answers(engine, 30), expected, strict=True):
            assert ids == wanted, kind
            assert logprobs == pytest.approx(values, abs=1e-9), kind
    if way != "beams":  # which end texts of other lengths
        for most in (1, 3, 13, 29):
            for (ids, _), (wanted, _) in zip(answers(Engine(model), most), expected, strict=True):
                assert ids == wanted[:most]
    # frequencies of one kind alone would give other texts
    kept = Engine(model)
    kept.make_runner = lambda: Unread(model)
    assert [ids for ids, _ in answers(kept, 30)] != [ids for ids, _ in expected]


@pytest.mark.parametrize("parts", ["window", "hybrid", "prefix"])
def test_states_of_all_kinds_are_read_again(parts):
    """Rings and recurrent states too, and with an adapter whose 5 places count as the row's."""
    window, gru = block("sliding-window"), block("gru", ffn="none")
    blocks = {"window": [*block(), *window], "hybrid": [*gru, *block()]}.get(parts, block())
    model = model_of("longrope", blocks=blocks)
    if parts == "prefix":
        make_method("adapter", {"name": "prefix", "tokens": 5}).build(seed=0).apply(model)
        randomise(model)
    prompts = [tokens(1, n, seed=n)[0].tolist() for n in (4, 9, 12, 17)]
    answers = Engine(model, drafter="prompt-lookup").generate(prompts, max_new_tokens=14)
    for prompt, answer in zip(prompts, answers, strict=True):
        text = list(prompt)
        for _ in range(14):
            text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
        assert answer.ids == text[len(prompt) :]


class Letters:
    """A token a letter."""

    bos_id = eos_id = None
    adds_bos = False

    def encode(self, text):
        return [ord(letter) - 97 for letter in text]


class Unread(TorchRunner):
    """Goes on with the keys that it has."""

    def lasts(self, row):
        return math.inf


def test_keys_that_depend_on_the_length_are_kept_for_no_other_row():
    model = model_of("longrope")
    assert not Engine(model).keeps_prefixes and Engine(transformer()).keeps_prefixes
    with pytest.raises(RequestError, match=r"prefix_cache_bytes: .*keys that depend on a row's length"):
        prefix_cache(model, 2**20)


def test_greedy_tokens_equal_transformers_past_the_trained_length(tmp_path):
    """Which is given each text anew for each token, and so reads it with the frequencies of its length."""
    config, _ = pair("longrope")
    config.vocab_size, config.num_hidden_layers, config.intermediate_size = 61, 2, 48
    config.eos_token_id = config.bos_token_id = None
    peer = randomise(LlamaForCausalLM(config)).double().eval()
    peer.save_pretrained(tmp_path)
    engine = Engine(load_model(tmp_path, dtype="float64", device="cpu"))
    for length in (3, 12, 16, 17, 40):
        text = tokens(1, length, seed=length)
        answer = engine.generate(text.tolist(), max_new_tokens=20)[0].ids
        for _ in range(20):
            text = torch.cat([text, peer(text, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        assert answer == text[0, length:].tolist()


@pytest.mark.parametrize("name", BY_LENGTH)
def test_the_likelihood_of_a_continuation_is_that_of_one_pass(name):
    """Contexts that begin alike are read apart, since their rows may have different lengths."""
    model, text = model_of(name), "".join(chr(97 + i % 23) for i in range(50))
    pairs = [
        (text[:n], text[n : n + more]) for n, more in ((5, 4), (10, 9), (10, 3), (15, 1), (30, 8), (49, 1), (12, 30))
    ]
    found = loglikelihood(model, Letters(), pairs, label=None)
    for (context, rest), own in zip(pairs, found, strict=True):
        ids = torch.tensor([Letters().encode(context + rest)])
        logprobs = model(ids[:, :-1]).logits[0].double().log_softmax(-1)
        expected = logprobs.gather(1, ids[0, 1:, None])[-len(rest) :, 0]
        assert own.logprobs == pytest.approx(expected.tolist(), abs=1e-9)


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
