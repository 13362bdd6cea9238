"""Beam search against transformers, against enumeration, and with all that it is combined with."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from _engine_models import EOS, ByteTokenizer, HistoryModel
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList, MinPLogitsWarper

from llmanac.core.errors import LlmanacError, RequestError
from llmanac.core.spec import make_method
from llmanac.generate.decoding import beam
from llmanac.generate.engine import Engine
from llmanac.models.load import load_model

VOCABULARY, EOS_ID = 41, 7

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same float64 weights in transformers and in ours."""
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=None, pad_token_id=None, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
        model.lm_head.weight.mul_(2.0)
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    peer = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="sdpa").eval()
    return peer, load_model(folder, dtype=torch.float64, device="cpu")


def prompts_of(count: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 20, (count,), generator=generator).tolist()
    return [torch.randint(0, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def theirs(peer, prompts, new, eos, **options):
    """(ids, score) of each prompt's texts, all prompts in one batch, padded on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    n = options.pop("n", 1)
    done = peer.generate(
        ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=eos, pad_token_id=0,
        num_return_sequences=n, return_dict_in_generate=True, output_scores=True, **options,
    )  # fmt: skip
    out = []
    ends = [] if eos is None else [eos] if isinstance(eos, int) else eos
    for row, score in zip(done.sequences[:, width:].tolist(), done.sequences_scores.tolist(), strict=True):
        end = next((at + 1 for at, token in enumerate(row) if token in ends), new)
        out.append((row[:end], score))
    return out


def same(ours, expected):
    assert [one.ids for one in ours] == [ids for ids, _ in expected]
    for one, (_, score) in zip(ours, expected, strict=True):
        assert one.score == pytest.approx(score, rel=2e-6, abs=2e-6)  # transformers sums in float32


EARLY = (False, True, "never")
ENDS = {"none": (), "one": (EOS_ID,), "several": (EOS_ID, 3, 19)}


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("early", EARLY, ids=str)
@pytest.mark.parametrize(
    ("beams", "penalty", "n"), [(2, 1.0, 1), (3, -1.0, 2), (3, 0.0, 3), (4, 2.0, 4), (5, 0.6, 3), (5, 1.0, 5)]
)
def test_sequences_and_scores_equal_transformers(pair, beams, penalty, n, early, ends):
    peer, model = pair
    prompts, new = prompts_of(4, beams), 12
    how = {"num_beams": beams, "length_penalty": penalty, "early_stopping": early, "n": n}
    expected = theirs(peer, prompts, new, list(ENDS[ends]) or None, **how)
    ours = Engine(model).generate(
        prompts, max_new_tokens=new, stop_ids=ENDS[ends], beams=beams, length_penalty=penalty, early_stopping=early, n=n
    )
    same(ours, expected)
    assert [one.index for one in ours] == [*range(n)] * len(prompts)
