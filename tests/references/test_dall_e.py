"""Text and image tokens in one model against Chameleon: image tokens, logits; generation and guidance."""

from __future__ import annotations

import pytest
import torch
from _pictures import TEXT, close, ours_of, pixels, theirs
from _small_models import randomise, tokens

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.spec import make_method
from llmanac.data.pictures import Pictures

VQ = {
    "embed_dim": 8, "num_embeddings": 24, "latent_channels": 8, "resolution": 16, "base_channels": 32,
    "channel_multiplier": [1, 2], "num_res_blocks": 1,
}  # fmt: skip
CODES = {f"IMGIMG{''.join('ABCDEFGHIJ'[int(d)] for d in str(code))}Z": 59 - code for code in range(24)}


def test_image_tokens_and_logits_equal_chameleon(tmp_path):
    model = theirs(
        "ChameleonForConditionalGeneration", "ChameleonConfig", **TEXT, num_key_value_heads=2, vq_config=VQ,
        vocabulary_map={**CODES, "<image>": 3},
    )  # fmt: skip
    model.model.vqmodel.quantize.embedding.weight.data.mul_(20)  # as far apart as the encoder's outputs
    ours, x = ours_of(model, tmp_path), pixels(3, 16)
    expected = model.get_image_tokens(x).view(3, -1)
    assert torch.equal(ours.tokens(x), expected) and len(expected.unique()) > 4
    ids = torch.cat([tokens(3, 6, below=30), expected[:, :8]], 1)
    shown = [i for i in range(61) if i not in CODES.values()]  # their class hides image tokens
    actual = ours(ids).logits
    close(actual[..., shown], model(input_ids=ids).logits[..., shown], 0.3)
    hidden = model.model(input_ids=ids)[0]
    close(actual, model.lm_head(hidden), 0.3)
    assert (actual - randomise(ours, seed=2)(ids).logits).abs().max() > 0.1


def model(**choices):
    fields = {
        "name": "dall-e", "text": {"name": "transformer", "dim": 32, "layers": 1, "max_length": 32},
        "tokenizer": {
            "name": "vq-vae", "image": 8, "base": 8, "groups": 4, "multipliers": [1, 2],
            "codebook": {"codes": 12, "dim": 4},
        },
        **choices,
    }  # fmt: skip
    return randomise(make_method("multimodal", fields).build(vocab_size=30)).double()


def test_loss_is_that_of_the_tokens_and_generation_follows_them():
    ours, x = model(drop=0.0, image_weight=3.0).eval(), pixels(2, 8)
    ids = torch.tensor([[1, 5, 6, 7], [1, 4, 0, 0]])
    loss, units, more = ours.loss(Pictures(pixels=x, ids=ids))
    row = torch.cat([ids, ours.tokens(x)], 1)
    nll = torch.nn.functional.cross_entropy(ours(row[:, :-1]).logits.transpose(1, 2), row[:, 1:], reduction="none")
    kept = nll[:, :3][ids[:, 1:] != 0]
    torch.testing.assert_close(loss, kept.sum() + 3 * nll[:, 3:].sum())
    assert int(units) == len(kept) + 3 * 32 and torch.isclose(more["image_nll"] / units, nll[:, 3:].mean())
    loss.backward()
    assert all((p.grad is None) == name.startswith("tokenizer.") for name, p in ours.named_parameters())
    made = ours.generate(ids, temperature=0)
    slow = ids
    for _ in range(16):
        logits = ours(slow).logits[:, -1, ours.token_of]
        slow = torch.cat([slow, ours.token_of[logits.argmax(1)][:, None]], 1)
    assert torch.equal(made, slow[:, 4:]) and ours.images(made).shape == (2, 3, 8, 8)
    draws = [ours.generate(ids, guidance=w, top_k=5, generator=torch.Generator().manual_seed(0)) for w in (1.0, 4.0)]
    assert not torch.equal(*draws)
    none = torch.zeros_like(ids)
    assert torch.equal(ours.generate(none, guidance=4.0, temperature=0), ours.generate(none, temperature=0))
    with pytest.raises(RequestError, match="tokens: a token of text"):
        ours.images(made.clone().fill_(2))
    with pytest.raises(SpecError, match="image_ids: 2 tokens for 12 codes"):
        model(image_ids=[1, 2])
