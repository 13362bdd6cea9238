"""One stream of text and patches against ViLT; METER's co-attention layer against BridgeTower's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from _pictures import TEXT, VISION, close, ours_of, pixels, theirs
from _small_models import randomise, tokens
from transformers import BridgeTowerConfig
from transformers.models.bridgetower.modeling_bridgetower import BridgeTowerBertCrossLayer

from llmanac.core.errors import RequestError, SpecError
from llmanac.core.spec import make_method
from llmanac.data.pictures import Pictures
from llmanac.models.forward import SourceMemory


def test_scores_and_gradients_equal_vilt(tmp_path):
    """Ragged texts: padding between text and patches is not seen. Their patches come in a random order."""
    model = theirs(
        "ViltForQuestionAnswering",
        "ViltConfig",
        **{**VISION, **TEXT, "num_labels": 5, "max_image_length": -1, "attn_implementation": "eager"},
    )
    ours, x, ids = ours_of(model, tmp_path / "theirs"), pixels(3), tokens(3, 9)
    lengths = torch.tensor([9, 4, 7])
    real = (torch.arange(9) < lengths[:, None]).long()
    expected = model(input_ids=ids, pixel_values=x, attention_mask=real, pixel_mask=torch.ones(3, 24, 24).long()).logits
    actual = ours(ids, x, lengths)
    close(actual, expected, 0.1)
    changed = ids.masked_fill(real == 0, 3)
    torch.testing.assert_close(ours(changed, x, lengths), actual)
    wanted = torch.tensor([1, 4, 0])
    F.cross_entropy(expected, wanted).backward()
    loss, units, _ = ours.loss(Pictures(pixels=x, ids=ids, lengths=lengths, labels=wanted))
    (loss / units).backward()
    grad = model.vilt.embeddings.text_embeddings.word_embeddings.weight.grad
    close(ours.model.embed_tokens.weight.grad, grad, 1e-5)
    close(ours.model.modality.weight.grad, model.vilt.embeddings.token_type_embeddings.weight.grad, 1e-5)
    again = type(model).from_pretrained(ours.save_pretrained(tmp_path / "ours"), dtype=torch.float64).eval()
    close(again(input_ids=ids, pixel_values=x, attention_mask=real).logits, expected)
    assert (ours(ids, x.flip(-1), lengths) - actual).abs().max() > 1e-3
    with pytest.raises(RequestError, match=r"ids: .* texts of at most 40 tokens"):
        ours(tokens(3, 41), x)


def co_attention():
    fields = {
        "name": "co-attention", "dim": 32, "layers": 2, "answers": 3,
        "vision": {"name": "vit", "image": 24, "dim": 24, "layers": 1},
        "text": {"name": "encoder", "dim": 16, "layers": 1, "max_length": 12},
    }  # fmt: skip
    return randomise(make_method("multimodal", fields).build(vocab_size=61)).double().eval()


def test_co_attention_layer_equals_bridgetower():
    """One layer, both ways of a ragged text, weights copied by name."""
    config = BridgeTowerConfig(
        hidden_size=32, num_attention_heads=4, intermediate_size=128, layer_norm_eps=1e-5, hidden_act="gelu",
        attn_implementation="sdpa", is_decoder=False, add_cross_attention=True, attention_probs_dropout_prob=0.0,
        hidden_dropout_prob=0.0, chunk_size_feed_forward=0,
    )  # fmt: skip
    layer = randomise(BridgeTowerBertCrossLayer(config)).double().eval()
    model = co_attention()
    own, state = model.texts.layers[0], layer.state_dict()
    names = {
        "self_attn.q_proj": "attention.self.query", "self_attn.k_proj": "attention.self.key",
        "self_attn.v_proj": "attention.self.value", "self_attn.o_proj": "attention.output.dense",
        "post_attention_layernorm": "attention.output.LayerNorm", "encoder_attn.q_proj": "crossattention.self.query",
        "encoder_attn.k_proj": "crossattention.self.key", "encoder_attn.v_proj": "crossattention.self.value",
        "encoder_attn.o_proj": "crossattention.output.dense",
        "post_encoder_layernorm": "crossattention.output.LayerNorm",
        "mlp.up_proj": "intermediate.dense", "mlp.down_proj": "output.dense",
        "post_feedforward_layernorm": "output.LayerNorm",
    }  # fmt: skip
    own.load_state_dict({f"{a}.{end}": state[f"{b}.{end}"] for a, b in names.items() for end in ("weight", "bias")})
    generator = torch.Generator().manual_seed(3)
    t, v = (torch.randn(2, n, 32, dtype=torch.float64, generator=generator) for n in (7, 10))
    real = torch.arange(7) < torch.tensor([[7], [4]])
    hidden = torch.zeros(2, 1, 1, 7, dtype=torch.float64).masked_fill(~real[:, None, None], float("-inf"))
    expected = layer(t, v, attention_mask=hidden)[0]
    actual = own(t, model._context(real, SourceMemory(v, torch.ones(2, 10, dtype=torch.bool))))
    close(actual[real], expected[real], 0.3, 1e-9)
    everything = torch.zeros(2, 1, 1, 10, dtype=torch.float64)
    back = layer(v, t, attention_mask=everything, encoder_attention_mask=hidden)[0]  # the image looks at the text
    close(own(v, model._context(torch.ones(2, 10, dtype=torch.bool), SourceMemory(t, real))), back, 0.3, 1e-9)


def test_scores_equal_bridgetower(tmp_path):
    """Whole towers: each layer of co-attention reads one more block of both encoders; ragged texts."""
    model = theirs(
        "BridgeTowerForImageAndTextRetrieval", "BridgeTowerConfig", hidden_size=32, num_attention_heads=4,
        num_hidden_layers=2, text_config={**TEXT, "num_hidden_layers": 3, "max_position_embeddings": 42},
        vision_config={"hidden_size": 64, "num_hidden_layers": 3, "image_size": 24, "patch_size": 8},
        attn_implementation="eager",
    )  # fmt: skip
    ours, x, ids, lengths = ours_of(model, tmp_path), pixels(3), 3 + tokens(3, 9, below=50), torch.tensor([9, 4, 7])
    real = torch.arange(9) < lengths[:, None]
    ids = ids.masked_fill(~real, 1)
    expected = model(input_ids=ids, pixel_values=x, attention_mask=real.long()).logits
    actual = ours(ids, x, lengths)
    close(actual, expected, 0.1)
    wanted = torch.tensor([1, 0, 1])
    F.cross_entropy(expected, wanted).backward()
    F.cross_entropy(actual, wanted).backward()
    grad = model.bridgetower.vision_model.visual.embeddings.patch_embedding.weight.grad
    close(ours.vision.model.patches.weight.grad, grad, 1e-6)
    assert (ours(ids, x.flip(-1), lengths) - actual).abs().max() > 1e-3


def test_two_streams_learn_and_see_no_padding():
    model, x, ids, lengths = co_attention(), pixels(3), tokens(3, 9), torch.tensor([9, 4, 7])
    found = model(ids, x, lengths)
    changed = ids.masked_fill(torch.arange(9) >= lengths[:, None], 3)
    torch.testing.assert_close(model(changed, x, lengths), found)
    loss, units, _ = model.loss(Pictures(pixels=x, ids=ids, lengths=lengths, labels=torch.tensor([0, 2, 1])))
    loss.backward()
    assert units == 3 and all(p.grad is not None for p in model.images.layers[-1].parameters())
    assert (model(ids, x.flip(-1), lengths) - found).abs().max() > 1e-3
    with pytest.raises(SpecError, match="blocks: each needs cross-attention"):
        make_method("multimodal", {"name": "co-attention", "blocks": ["post-norm"]})
