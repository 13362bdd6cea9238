"""Encoder-decoders of random legal configs against transformers: logits, files in both directions, greedy and beams."""

from __future__ import annotations

import random

import pytest
import torch
from _families import EAGER, fixed, ours_of
from _small_models import randomise, tokens
from test_family_fuzz import DRAWS, FLAG, GENERATED, one
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from llmanac.core.errors import RequestError
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate.engine import Engine
from llmanac.models.families._table import canonical
from llmanac.models.load import load_model
from llmanac.models.save import export_model


def bart(rng, **more):
    dim = rng.choice((24, 48))
    return {
        "vocab_size": rng.choice((40, 61, 67)), "d_model": dim, "max_position_embeddings": 64,
        **{f"{stack}_layers": rng.choice((1, 2, 3)) for stack in ("encoder", "decoder")},
        **{f"{stack}_attention_heads": rng.choice((2, 3, 4)) for stack in ("encoder", "decoder")},
        **{f"{stack}_ffn_dim": rng.choice((20, 33, 56)) for stack in ("encoder", "decoder")},
        "activation_function": rng.choice(("gelu", "relu", "silu", "gelu_new")), "pad_token_id": 0,
        "bos_token_id": None,
        "decoder_start_token_id": rng.choice((0, 5)), "eos_token_id": None, "forced_eos_token_id": None,
        **{key: value(rng) for key, value in more.items()},
    }  # fmt: skip


def t5(rng, **more):
    return {
        "vocab_size": rng.choice((40, 61, 67)), "d_model": rng.choice((24, 31)), "d_kv": rng.choice((4, 6)),
        "d_ff": rng.choice((20, 33)), "num_heads": rng.choice((2, 3)), "num_layers": rng.choice((1, 2)),
        "num_decoder_layers": rng.choice((1, 2, 3)), "relative_attention_num_buckets": rng.choice((8, 32)),
        "relative_attention_max_distance": rng.choice((40, 128)), "eos_token_id": None,
        "decoder_start_token_id": 0, "feed_forward_proj": rng.choice(("relu", "gated-gelu", "gated-silu", "gelu_new")),
        "tie_word_embeddings": True, **{key: value(rng) for key, value in more.items()},
    }  # fmt: skip


CONFIGS = {
    "t5": lambda rng: t5(rng, tie_word_embeddings=one(*FLAG)),
    "mt5": t5,
    "bart": lambda rng: bart(rng, scale_embedding=one(*FLAG)),
    "mbart": lambda rng: bart(rng, scale_embedding=one(*FLAG)),
    "marian": lambda rng: bart(rng, scale_embedding=one(True)),
    "pegasus": lambda rng: bart(rng, scale_embedding=one(True)),
}
LENGTHS = (9, 4, 14)


def pair(kind, seed, folder, same=False):
    """transformers' model of a random config in float64, and ours from its files."""
    drawn = CONFIGS[kind](random.Random(f"{kind} {seed}"))
    if same:  # transformers' cache looks at the encoder's number of layers
        own, other = (
            ("num_decoder_layers", "num_layers") if "num_layers" in drawn else ("decoder_layers", "encoder_layers")
        )
        drawn[own] = drawn[other]
    config = AutoConfig.for_model(kind, **drawn)
    peer = randomise(AutoModelForSeq2SeqLM.from_config(config, **EAGER), seed)
    for name, buffer in peer.named_buffers():
        if name == "final_logits_bias":
            buffer.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
    peer.tie_weights()
    fixed(peer)
    peer = peer.double().eval()
    return peer, ours_of(peer, folder)


def sources(vocabulary, seed):
    """Ids (3, 14) of three texts and which of them are real."""
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return tokens(3, max(LENGTHS), seed, vocabulary).clamp(min=1) * mask, mask.long()


@pytest.mark.parametrize("seed", range(DRAWS))
@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_and_files_of_random_configs(kind, seed, tmp_path):
    peer, ours = pair(kind, seed, tmp_path / "theirs")
    source, mask = sources(ours.vocab_size, seed)
    ids = tokens(3, 12, seed + 1, ours.vocab_size)
    given = Batch(ids=ids, source=Batch(ids=source, lengths=mask.sum(1)))
    options = {"input_ids": source, "attention_mask": mask, "decoder_input_ids": ids}
    expected = peer(**options).logits.double()
    assert (ours(given).logits - expected).abs().max() < 3e-6 * expected.abs().max()
    assert (randomise(ours, seed=99)(given).logits - expected).abs().max() > 0.1 * expected.abs().max()
    ours = load_model(tmp_path / "theirs", dtype="float64", device="cpu")
    export_model(ours, tmp_path / "ours", family=kind)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours", dtype=torch.float64, **EAGER).eval()
    torch.testing.assert_close(
        again(**options).logits.double(), expected, rtol=0, atol=1e-6 * float(expected.abs().max())
    )
    assert canonical(load_model(tmp_path / "ours", device="cpu").spec) == canonical(ours.spec)
    again.config.save_pretrained(tmp_path / "ours")
    assert canonical(load_model(tmp_path / "ours", device="cpu").spec) == canonical(ours.spec)


@pytest.mark.parametrize("seed", range(DRAWS, DRAWS + GENERATED))
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_random_models_write(kind, seed, tmp_path):
    """Rows of several sources at once, with a cache: greedy, and by beams."""
    peer, ours = pair(kind, seed, tmp_path, same=True)
    source, mask = sources(ours.vocab_size, seed)
    prompts = [row[:n].tolist() for row, n in zip(source, LENGTHS, strict=True)]
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    engine = Engine(ours)
    written = engine.generate(prompts, max_new_tokens=8, stop_ids=())
    assert [one.ids for one in written] == peer.generate(source, **options)[:, 1:].tolist()
    assert len({one.logprobs[0] for one in written}) == len(prompts)  # what is written depends on the source
    beams = make_method("decoding", {"name": "beam", "beams": 3})
    found = [one.ids for one in engine.generate(prompts, max_new_tokens=8, stop_ids=(), decoding=[beams])]
    assert found == peer.generate(source, num_beams=3, **options)[:, 1:].tolist()


@pytest.mark.parametrize("forced", [{"bos": 7}, {"eos": 3}, {"bos": 7, "eos": 3}], ids=str)
def test_the_first_and_the_last_token_may_be_forced(forced, tmp_path):
    """mBART's language, the end of a text that is cut: as transformers, greedy and by beams. What is repeated is what
    was written, not what the encoder read."""
    peer, _ = pair("mbart", DRAWS, tmp_path, same=True)
    own = {f"forced_{name}_token_id": token for name, token in forced.items()}
    peer.generation_config.update(**own)
    peer.save_pretrained(tmp_path)
    engine = Engine(load_model(tmp_path, dtype="float64", device="cpu"))
    source, mask = sources(engine.model.vocab_size, DRAWS)
    prompts = [row[:n].tolist() for row, n in zip(source, LENGTHS, strict=True)]
    for beams in (1, 3):
        for most in (1, 9):
            asked = {"max_new_tokens": most, "repetition_penalty": 1.2}
            found = engine.generate(prompts, stop_ids=(), beams=beams, no_repeat_ngram=2, **asked)
            asked |= {"attention_mask": mask, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            written = peer.generate(source, num_beams=beams, no_repeat_ngram_size=2, **asked)
            assert [one.ids for one in found] == written[:, 1:].tolist()
            assert {one.ids[-1] for one in found} == {3} if "eos" in forced else {one.ids[0] for one in found} == {7}
    engine.model.generation |= {"forced_bos_token_id": 999}
    with pytest.raises(RequestError, match="forced_bos_token_id: 999 is not in the vocabulary"):
        engine.generate(prompts)
