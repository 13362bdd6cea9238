"""Windows with attention sinks against transformers with the mask written out; caches that do not grow."""

from __future__ import annotations

import pytest
import torch
from _small_models import block, randomise, tokens, transformer
from transformers import LlamaConfig, LlamaForCausalLM

from llmanac.core.errors import SpecError
from llmanac.core.types import Batch
from llmanac.generate.engine import Engine
from llmanac.models.load import load_model
from llmanac.models.scaling import windowed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=96,
    )  # fmt: skip
    place = tmp_path_factory.mktemp("m")
    randomise(LlamaForCausalLM(config)).double().save_pretrained(place)
    return place


def test_logits_equal_transformers_under_the_mask(folder):
    ours = load_model(folder, dtype="float64", sinks="3+8")
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    ids = tokens(2, 50)
    at = torch.arange(50)
    seen = (at[None] <= at[:, None]) & ((at[:, None] - at[None] < 8) | (at[None] < 3))
    mask = torch.zeros(1, 1, 50, 50, dtype=torch.float64).masked_fill(~seen, torch.finfo(torch.float64).min)
    with torch.no_grad():
        expected = theirs(ids, attention_mask=mask.expand(2, 1, 50, 50)).logits
        for form in ("sdpa", "plain", "blocks", "flash"):
            ours.attention_form = form
            torch.testing.assert_close(ours(Batch(ids=ids)).logits, expected, rtol=1e-5, atol=1e-5)
        other = load_model(folder, dtype="float64", sinks="0+8")(Batch(ids=ids)).logits
    assert (other - expected).abs().max() > 1e-2


@pytest.mark.parametrize("pieces", [(1,) * 60, (30, 1, 1, 20, 8), (60,), (2, 40, 18)])
def test_any_pieces_give_what_one_pass_gives_in_constant_memory(pieces):
    model = transformer(blocks=block({"name": "attention-sinks", "window": 8, "sinks": 3}), position="rope")
    ids, state, out, at = tokens(3, 60), model.start(3), [], 0
    sizes = set()
    with torch.no_grad():
        for size in pieces:
            out.append(model(Batch(ids=ids[:, at : at + size]), state).logits)
            at += size
            sizes.add(state.layers[0].nbytes)
        torch.testing.assert_close(torch.cat(out, 1), model(Batch(ids=ids)).logits, rtol=1e-9, atol=1e-9)
    assert len(sizes) == 1
    assert state.layers[0].tensors[0].shape[2] == 11


def test_engine_generates_the_same_with_ragged_rows(folder):
    model = load_model(folder, dtype="float64", sinks="2+6")
    prompts = [tokens(1, n, seed=n)[0].tolist() for n in (3, 21, 40)]
    together = [done.ids for done in Engine(model).generate(prompts, max_new_tokens=12)]
    alone = [Engine(model).generate([p], max_new_tokens=12)[0].ids for p in prompts]
    assert together == alone
    ids = torch.tensor([prompts[2]])
    for token in alone[2]:
        with torch.no_grad():
            assert int(model(Batch(ids=ids)).logits[0, -1].argmax()) == token
        ids = torch.cat([ids, torch.tensor([[token]])], 1)


def test_what_cannot_have_sinks_is_refused(folder):
    for asked in ("4", "a+b", "4+0", "-1+4"):
        with pytest.raises(SpecError, match=r"sinks|window"):
            load_model(folder, sinks=asked)
    with pytest.raises(SpecError, match="set window"):
        transformer(blocks=block({"name": "softmax", "sinks": 2}))
    with pytest.raises(SpecError, match="softmax attention"):
        windowed(transformer(blocks=block("gru")).spec, "2+4")


@pytest.mark.parametrize("lengths", [(9, 14), (3, 40)])
def test_each_packed_document_has_sinks_of_its_own(lengths):
    model = transformer(blocks=block({"name": "multi-head", "heads": 2, "window": 5, "sinks": 3}), max_length=64)
    ids = tokens(1, sum(lengths))
    segments = torch.arange(2).repeat_interleave(torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    packed = model(Batch(ids=ids, segments=segments, positions=positions)).logits
    alone = torch.cat([model(Batch(ids=part)).logits for part in ids.split(lengths, 1)], 1)
    torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-9)
