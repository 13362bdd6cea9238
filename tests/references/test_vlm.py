"""Vision-language models with a projector against transformers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import transformers
from _pictures import TEXT, VISION, close, ours_of, pixels, theirs
from _small_models import randomise, tokens

from llmanac.core.errors import RequestError
from llmanac.core.types import IGNORE, LAST
from llmanac.data.pictures import Pictures

IMAGE = 60
CASES = {
    "llava": (
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        {
            "vision_config": {**VISION, "model_type": "clip_vision_model"},
            "text_config": {**TEXT, "model_type": "llama", "num_key_value_heads": 2},
            "image_token_index": IMAGE,
        },
    ),
    "paligemma": (
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaConfig",
        {
            "vision_config": {**VISION, "model_type": "siglip_vision_model", "vision_use_head": False},
            "text_config": {**TEXT, "model_type": "gemma", "num_key_value_heads": 1, "head_dim": 12},
            "image_token_index": IMAGE, "projection_dim": 32, "hidden_size": 32,
        },
    ),
}  # fmt: skip


def prompt(rows=2, length=11):
    """Nine image tokens after a first one, then text; the last five are the answer."""
    ids = tokens(rows, length + 9, below=IMAGE)
    ids[:, 1:10] = IMAGE
    targets = ids.roll(-1, 1)
    targets[:, :-6] = IGNORE
    targets[:, -1] = IGNORE
    return ids, targets


@pytest.mark.parametrize("case", CASES)
def test_logits_and_loss_equal_transformers(case, tmp_path):
    name, config, choices = CASES[case]
    model = theirs(name, config, **choices)
    ours, x, (ids, targets) = ours_of(model, tmp_path / "theirs"), pixels(2), prompt()
    labels = F.pad(targets, (1, 0), value=IGNORE)[:, :-1]
    kinds = {"token_type_ids": (labels != IGNORE).long()} if case == "paligemma" else {}
    expected = model(input_ids=ids, pixel_values=x, labels=labels, **kinds)
    close(ours(ids, x, targets=targets).logits, expected.logits, 0.3)
    ours.spec = ours.spec.__class__(**{**vars(ours.spec), "encoder": "trained"})
    ours.requires_grad_(True)
    loss, units, _ = ours.loss(Pictures(pixels=x, ids=ids, targets=targets))
    torch.testing.assert_close((loss / units).float(), expected.loss.float(), rtol=1e-6, atol=1e-6)
    double = F.cross_entropy(expected.logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    torch.testing.assert_close(loss / units, double, rtol=1e-6, atol=0)  # their RMSNorm is float32
    double.backward()
    (loss / units).backward()
    vision = model.model.vision_tower
    grad = ours.vision.model.patches.weight.grad
    close(grad, vision.embeddings.patch_embedding.weight.grad.reshape(grad.shape), 1e-6, 1e-4)
    ours.save_pretrained(tmp_path / "ours")
    again = getattr(transformers, name).from_pretrained(tmp_path / "ours", dtype=torch.float64).eval()
    close(again(input_ids=ids, pixel_values=x, **kinds).logits, expected.logits)
    assert (ours(ids, x.flip(-1), targets=targets).logits - expected.logits).abs().max() > 1e-3
    assert (randomise(ours, seed=1)(ids, x, targets=targets).logits - expected.logits).abs().max() > 0.1


def test_decoding_with_a_state_equals_one_pass_and_wrong_places_are_refused(tmp_path):
    name, config, choices = CASES["llava"]
    ours, x, (ids, _) = ours_of(theirs(name, config, **choices), tmp_path), pixels(2), prompt()
    whole = ours(ids, x).logits
    state = ours.start(2)
    parts = [ours(ids[:, :12], x, state=state).logits]
    parts += [ours(ids[:, i : i + 1], state=state, want=LAST).logits for i in range(12, 20)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-9, atol=1e-9)
    with pytest.raises(RequestError, match=r"ids: 18 image tokens \(60\) for 1 images of 9 tokens each"):
        ours(ids, x[:1])
    assert not any(p.requires_grad for p in ours.vision.parameters())


def test_the_q_former_equals_instructblip(tmp_path):
    """Queries read image and instruction, of ragged length; the language model reads the queries."""
    reads = {**TEXT, "hidden_size": 24, "intermediate_size": 40, "encoder_hidden_size": 32, "num_hidden_layers": 3}
    text = {
        "model_type": "opt", "vocab_size": 61, "hidden_size": 32, "ffn_dim": 56, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 40, "word_embed_proj_dim": 32,
    }  # fmt: skip
    model = theirs(
        "InstructBlipForConditionalGeneration", "InstructBlipConfig", vision_config=VISION, qformer_config=reads,
        text_config=text, num_query_tokens=4, image_token_index=IMAGE, attn_implementation="eager",
    )  # fmt: skip
    ours, x, asked, lengths = ours_of(model, tmp_path), pixels(2), tokens(2, 7, seed=5), torch.tensor([7, 4])
    ids = tokens(2, 12, below=IMAGE)
    ids[:, :4] = IMAGE
    expected = model(
        input_ids=ids, pixel_values=x, qformer_input_ids=asked, attention_mask=torch.ones_like(ids),
        qformer_attention_mask=(torch.arange(7) < lengths[:, None]).long(),
    ).logits  # fmt: skip
    seen = ours.see(x, asked, lengths)
    actual = ours(ids, seen=seen).logits
    close(actual, expected, 0.3)
    assert seen.shape == (2, 4, 32) and (ours.see(x.flip(-1), asked, lengths) - seen).abs().max() > 1e-3
    assert (ours.see(x, asked.flip(0), lengths) - seen).abs().max() > 1e-3
