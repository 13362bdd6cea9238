"""BERTScore against bert-score: a tiny random encoder here, MiniLM where its wheel is installed."""

from __future__ import annotations

import zipfile

import bert_score
import numpy as np
import pytest
from _published import published
from test_embed import LONG, SENTENCES, folder  # noqa: F401 (a fixture)

from llmanac.core.errors import SpecError
from llmanac.core.registry import build
from llmanac.evaluate import embed
from llmanac.evaluate.embed import Embedder
from llmanac.metrics.bertscore import bertscore

GOLDEN = 0.8648298  # the mean F of bert-score's own example with MiniLM's six layers, computed with bert-score 0.3.13


def peers(mine, theirs, place, layer, idf=False):
    from transformers import AutoTokenizer

    AutoTokenizer.from_pretrained(place, model_max_length=64).save_pretrained(place)
    found = bert_score.score(mine, theirs, model_type=str(place), num_layers=layer, idf=idf, nthreads=0, device="cpu")
    return np.stack([side.numpy() for side in found], axis=1)


@pytest.fixture
def pairs():
    texts = [text for text in SENTENCES if text.strip() and text != LONG]
    return texts, texts[3:] + texts[:3]


def test_scores_equal_bert_score(folder, pairs):  # noqa: F811
    mine, theirs = pairs
    encoder = Embedder.load(folder)
    seen = []
    for layer in (0, 1, 2):
        for weights in ("uniform", "idf"):
            expected = peers(mine, theirs, folder, layer, idf=weights == "idf")
            found = build("metric", "bertscore", layer=layer, weights=weights)(mine, theirs, encoder)
            np.testing.assert_allclose(found.scores, expected, atol=1e-5)
            seen.append(found.measured().value)
    assert len({round(value, 4) for value in seen}) == 6
    rows = [[one, two] for one, two in zip(theirs, mine[1:] + mine[:1], strict=True)]
    expected = bert_score.score(mine, rows, model_type=str(folder), num_layers=2, device="cpu")
    np.testing.assert_allclose(
        bertscore(mine, rows, encoder).scores, np.stack([side.numpy() for side in expected], 1), atol=1e-5
    )


def test_scores_do_not_depend_on_the_batch(folder, pairs, monkeypatch):  # noqa: F811
    encoder = Embedder.load(folder)
    whole = bertscore(*pairs, encoder).scores
    monkeypatch.setattr(embed, "BATCH_HIDDEN", 1)
    np.testing.assert_allclose(bertscore(*pairs, encoder).scores, whole, atol=1e-6)
    alone = [bertscore([one], [two], encoder).scores[0] for one, two in zip(*pairs, strict=True)]
    np.testing.assert_allclose(alone, whole, atol=1e-6)


def test_empty_texts_baselines_and_wrong_layers(folder):  # noqa: F811
    encoder = Embedder.load(folder)
    found = bertscore(["", "Stop.", "Stop."], ["Stop.", " ", "Stop."], encoder)
    assert found.scores[:2, 2].tolist() == [0, 0] and found.scores[2] == pytest.approx([1, 1, 1])
    base = (0.2, 0.3, 0.4)
    rescaled = bertscore(["unaffable"], ["Stop."], encoder, baseline=base).scores
    plain = bertscore(["unaffable"], ["Stop."], encoder).scores
    np.testing.assert_allclose(rescaled, (plain - np.array(base)) / (1 - np.array(base)))
    assert bertscore([LONG], [LONG], encoder).cut == 1
    with pytest.raises(SpecError, match="layer: 3 is not between 0 and the 2 blocks"):
        bertscore(["a"], ["b"], encoder, layer=3)
    with pytest.raises(SpecError, match="baseline"):
        build("metric", "bertscore", baseline=(1.0,))


@pytest.mark.pretrained
def test_minilm_equals_bert_score(tmp_path, shared_data):
    with zipfile.ZipFile(published("minilm")) as archive:
        archive.extractall(tmp_path)
    sides = ((shared_data / "bertscore" / name).read_text("utf-8").splitlines() for name in ("hyps.txt", "refs.txt"))
    found = bertscore(*sides, Embedder.load(tmp_path, device="cpu"), layer=6)
    assert found.measured().value == pytest.approx(GOLDEN, abs=1e-6)
