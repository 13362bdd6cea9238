"""Heads of labels against transformers: sequence and token classification, files in both directions, commands."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from _families import BASES, EAGER, ENCODERS, LLAMA
from _small_models import randomise, tokens
from test_wordpiece import PROCESSORS, both
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

from llmanac.cli import main
from llmanac.core.errors import CheckpointError, RequestError, SpecError
from llmanac.core.spec import make_method
from llmanac.evaluate.labels import Labeller, open_embedder
from llmanac.models.families import family
from llmanac.models.families._table import canonical
from llmanac.models.load import load_model
from llmanac.models.save import export_model

DECODERS = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gpt2", "gpt_neox", "phi3", "opt", "bloom", "mixtral")
NAMES = {0: "no", 1: "yes", 2: "perhaps"}
CASES = [(kind, "sequence", {}) for kind in (*ENCODERS, *DECODERS)] + [(kind, "token", {}) for kind in ENCODERS]
CASES += [
    ("modernbert", "sequence", {"classifier_pooling": "mean", "classifier_bias": True}),
    ("modernbert", "token", {"classifier_bias": True, "classifier_activation": "silu"}),
    ("bert", "sequence", {"id2label": {0: "LABEL_0"}}),
    ("roberta", "sequence", {"id2label": {0: "one"}, "tie_word_embeddings": False}),
]


def peer_of(kind, form, extra):
    base = {**BASES.get(kind, LLAMA), "id2label": NAMES, "pad_token_id": 1 if kind in ENCODERS else 0, **extra}
    config = AutoConfig.for_model(kind, **base)
    cls = AutoModelForSequenceClassification if form == "sequence" else AutoModelForTokenClassification
    return randomise(cls.from_config(config, **EAGER)).double().eval()


@pytest.mark.parametrize(("kind", "form", "extra"), CASES, ids=[f"{k}-{f}-{len(e)}" for k, f, e in CASES])
def test_scores_equal_transformers(kind, form, extra, tmp_path):
    """Padded batches against one row at a time; saved, read by transformers and by us again."""
    peer = peer_of(kind, form, extra)
    peer.save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs", dtype="float64", device="cpu")
    rows = [(tokens(1, n, seed=n)[0].clamp(min=6)).tolist() for n in (14, 5, 9, 1)]
    expected = [peer(torch.tensor([row])).logits[0].detach() for row in rows]
    found = Labeller(model, None).logits(rows)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < 1e-6 * other.abs().max().clamp(min=1)
    assert (found[0][-1] - found[1][-1]).abs().max() > 1e-3  # the answer depends on the row
    export_model(model, tmp_path / "ours", family=kind)
    again, info = type(peer).from_pretrained(tmp_path / "ours", dtype=torch.float64, output_loading_info=True, **EAGER)
    computed = family(kind).stored(model.spec)[1]
    assert not info["unexpected_keys"] and all(key.endswith(computed) for key in info["missing_keys"])
    torch.testing.assert_close(
        again.eval()(torch.tensor([rows[0]])).logits[0].detach(), expected[0], rtol=0, atol=1e-12
    )
    assert list(again.config.id2label.values()) == list(peer.config.id2label.values())
    assert canonical(load_model(tmp_path / "ours", device="cpu").spec) == canonical(model.spec)


# --------------------------------------------------------------------------------------------------- with a tokenizer
PAIRS = [("the cats stop", "unaffable"), ("stop", "the cat sat. " * 40), ("text " * 60, "a"), ("x " * 70, "y " * 71)]


def saved(folder, names, form="sequence", kind="bert"):
    """A random model with a WordPiece tokenizer; `(transformers' model, the peer's tokenizer)`."""
    folder.mkdir(exist_ok=True)
    _, peer = both(folder, post_processor=PROCESSORS["bert"])
    model = peer_of(kind, form, {"id2label": names, "vocab_size": peer.get_vocab_size()}).float()
    model.save_pretrained(folder)
    return model, peer


def test_pairs_are_read_as_tokenizers_and_transformers_read_them(tmp_path):
    """Ids, types of tokens and cuts; the order depends on the question."""
    model, peer = saved(tmp_path, {0: "LABEL_0"})
    labeller = open_embedder(str(tmp_path))
    assert isinstance(labeller, Labeller) and labeller.most == 64
    peer.no_padding()
    peer.enable_truncation(64)
    for first, second in PAIRS:
        encoded = peer.encode(first, second)
        with torch.inference_mode():
            logit = model(torch.tensor([encoded.ids]), token_type_ids=torch.tensor([encoded.type_ids])).logits[0, 0]
            untyped = model(torch.tensor([encoded.ids])).logits[0, 0]
        found, tokens_read = labeller.related(first, [second])
        assert tokens_read == len(encoded.ids)
        assert abs(found[0] - logit.sigmoid().item()) < 1e-5 and abs(logit - untyped) > 1e-3
    texts = [second for _, second in PAIRS]
    together = labeller.relevance("the cats stop", texts)
    np.testing.assert_allclose(together, [labeller.relevance("the cats stop", [one])[0] for one in texts], atol=1e-5)
    assert np.abs(together - labeller.relevance("unaffable text", texts)).max() > 1e-3
    assert labeller.relevance("a", []).shape == (0,)


def test_labels_of_texts_and_of_tokens(tmp_path):
    model, peer = saved(tmp_path, NAMES)
    labeller, texts = Labeller.load(tmp_path), ["the cats stop", "unaffable text", "stop"]
    with torch.inference_mode():
        expected = torch.cat([model(torch.tensor([peer.encode(text).ids])).logits for text in texts])
    np.testing.assert_allclose(labeller.probabilities(texts), expected.softmax(-1).numpy(), atol=1e-5)
    assert labeller.predict(texts) == [NAMES[i] for i in expected.argmax(-1).tolist()] and not labeller.predict([])
    told = labeller.explain(texts[0])
    assert told.label == labeller.predict(texts[:1])[0] and {part.feature for part in told.parts} == {*texts[0].split()}
    with pytest.raises(RequestError, match="has 3 labels; a reranker has one"):
        labeller.relevance("a", ["b"])
    with pytest.raises(RequestError, match="state: this model gives labels, not text"):
        load_model(tmp_path, device="cpu").lm_head.start(1, dtype=torch.float32, device=torch.device("cpu"))
    model, peer = saved(tmp_path / "each", NAMES, "token", "electra")
    labeller, encoded = Labeller.load(tmp_path / "each"), peer.encode(texts[0])
    with torch.inference_mode():
        best = model(torch.tensor([encoded.ids])).logits[0].softmax(-1).max(-1)
    found = labeller.each(texts[0])
    assert [text for text, _, _ in found] == [texts[0][a:b] for a, b in encoded.offsets[1:-1]]
    assert [label for _, label, _ in found] == [NAMES[i] for i in best.indices.tolist()[1:-1]]
    np.testing.assert_allclose([p for _, _, p in found], best.values[1:-1].numpy(), atol=1e-5)
    with pytest.raises(RequestError, match="labels each token, not texts"):
        labeller.predict(texts)


def test_a_head_of_labels_that_cannot_be_honoured_is_refused(tmp_path):
    peer_of("bert", "sequence", {}).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for change, message in (
        (
            {"problem_type": "multi_label_classification"},
            "problem_type = 'multi_label_classification' is not supported",
        ),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label is .*, expected a name for each number from 0"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "which has a name twice"),
        ({"id2label": None, "num_labels": 0}, "num_labels is 0, expected 1 to"),
        ({"id2label": {"0": "a"}}, r"classifier.weight gives \(3, 32\) for lm_head.weight"),
    ):
        path.write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path, device="cpu")
    bare = make_method("lm", {"name": "encoder", "dim": 8, "layers": 1}).build(vocab_size=9)
    with pytest.raises(CheckpointError, match="gives no labels"):
        Labeller(bare)
    with pytest.raises(SpecError, match="tied: a head of labels"):
        make_method("lm", {"name": "transformer", "head": {"name": "labels", "labels": ["a", "b"]}})


# --------------------------------------------------------------------------------------------------------- commands
def test_the_commands_use_them(tmp_path, capsys):
    saved(tmp_path / "labels", NAMES)
    saved(tmp_path / "reranker", {0: "LABEL_0"})
    texts = ["the cats stop", "unaffable text", "stop the text"]
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    with pytest.raises(SystemExit) as ended:
        main(["classify", "predict", str(tmp_path / "labels"), str(tmp_path / "texts.txt"), "--text-only"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert not ended.value.code
    assert [row["prediction"] for row in rows] == Labeller.load(tmp_path / "labels").predict(texts)
    (tmp_path / "docs").mkdir()
    for number, text in enumerate(texts):
        (tmp_path / "docs" / f"{number}.txt").write_text(f"{text}\n")
    found = {}
    for more in ([], ["--rerank", str(tmp_path / "reranker")]):
        with pytest.raises(SystemExit) as ended:
            main(["retrieve", str(tmp_path / "docs"), "stop text", "--json", *more])
        assert not ended.value.code
        found[len(more)] = [(p["text"].strip(), p["score"]) for p in json.loads(capsys.readouterr().out)["passages"]]
    assert {text for text, _ in found[2]} == {text for text, _ in found[0]} and len(found[2]) > 1
    scores = Labeller.load(tmp_path / "reranker").relevance("stop text", [text for text, _ in found[2]])
    np.testing.assert_allclose([score for _, score in found[2]], scores, atol=1e-5)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
