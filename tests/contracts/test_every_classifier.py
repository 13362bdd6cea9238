"""What every classifier keeps to, whatever its name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from _labelled import easy

from llmanac.core import registry
from llmanac.core.errors import CheckpointError, DataError, LlmanacError
from llmanac.models.classifiers.load import load_classifier
from llmanac.tokenizers.load import train_tokenizer

NAMES = list(registry.methods("classifier"))
ON_A_MODEL = ("fine-tuning", "prompting")
HOSTILE = [
    "",
    "   \n\t",
    "\x00\x01",
    "🙂" * 50,
    "a" * 100_000,
    "é" * 5000,
    "never seen before",
    "不好的电影",
    "n't " * 3000,
]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def dims():
    """A language model and its tokenizer, for the methods that stand on one."""
    tokenizer = train_tokenizer("bpe", easy()[0], vocab_size=280, special_tokens=["<|endoftext|>"])
    return {"model": registry.build("lm", "transformer", dim=16, layers=1, max_length=128, vocab_size=280),
            "tokenizer": tokenizer}  # fmt: skip


@pytest.fixture
def make(dims):
    def build(name):
        return registry.build("classifier", name, **(dims if name in ON_A_MODEL else {}))

    return build


@pytest.mark.parametrize("name", NAMES)
def test_the_five_verbs(name, make, tmp_path):
    """fit, predict, scores, explain, save and load: shapes, names, and the same answers after a trip to the disk."""
    texts, labels = easy()
    classifier = make(name)
    assert classifier.fit(texts, labels) is classifier
    assert sorted(classifier.labels) == ["neg", "pos"]
    scores = classifier.scores(texts)
    assert scores.shape == (48, 2) and scores.dtype == np.float64 and np.isfinite(scores).all()
    predicted = classifier.predict(texts)
    assert predicted == [classifier.labels[i] for i in scores.argmax(1)]
    shares = classifier.probabilities(texts)
    np.testing.assert_allclose(shares.sum(1), 1.0, rtol=1e-12)
    if name not in ON_A_MODEL:
        assert predicted == labels
    explanation = classifier.explain("the film is not boring")
    assert explanation.label == classifier.predict(["the film is not boring"])[0] != explanation.against
    if explanation.exact:
        total = explanation.rest + sum(part.effect for part in explanation.parts)
        assert explanation.margin == pytest.approx(total, abs=1e-6)
    json.dumps(explanation.as_json(), allow_nan=False)
    again = load_classifier(classifier.save(tmp_path / "saved"))
    assert type(again) is type(classifier) and again.spec == classifier.spec and again.labels == classifier.labels
    np.testing.assert_allclose(again.scores(texts), scores, rtol=0, atol=1e-6)
    assert again.predict(texts) == predicted


@pytest.mark.parametrize("name", NAMES)
def test_scores_of_a_text_do_not_depend_on_its_neighbours(name, make):
    texts, labels = easy()
    classifier = make(name).fit(texts, labels)
    together = classifier.scores([*texts[:5], *HOSTILE])
    alone = np.concatenate([classifier.scores([text]) for text in texts[:5]])
    np.testing.assert_allclose(together[:5], alone, rtol=0, atol=2e-5)
    assert classifier.predict([]) == [] and classifier.scores([]).shape == (0, 2)


@pytest.mark.parametrize("name", NAMES)
def test_any_text_gets_an_answer_and_an_explanation(name, make):
    classifier = make(name).fit(*easy())
    assert np.isfinite(classifier.scores(HOSTILE)).all()
    for text in HOSTILE:
        explanation = classifier.explain(text)
        assert explanation.label in classifier.labels and explanation.lines()


@pytest.mark.parametrize("name", NAMES)
def test_what_it_cannot_learn_from_is_one_sentence(name, make):
    for texts, labels, message in (
        ([], [], "no examples"),
        (["a", "b"], ["x"], "1 for 2 texts"),
        (["a", "b"], ["pos", "pos"], "at least two labels"),
        (["a", " "], ["pos", "neg"], "number 1 is empty"),
        (["a", 3], ["pos", "neg"], "number 1 is int"),
        (["a", None], ["pos", "neg"], "number 1 is NoneType"),
        (["a", "b"], ["pos", float("nan")], "labels: number 1 is 'nan'"),
        (["a", "b"], ["pos", None], "labels: number 1"),
        (["a", "b"], ["pos", ["neg"]], "labels: number 1"),
        (["a", "\ud800"], ["pos", "neg"], "texts: number 1"),
        (["a", "b"], ["pos", "\ud800"], "labels: number 1"),
        (["a"] * 100, [str(i) for i in range(100)], "100 different ones for 100 texts; is that the labels' column"),
        ("ab", ["pos", "neg"], "put it into a list"),
    ):
        with pytest.raises(DataError, match=message) as error:
            make(name).fit(texts, labels)
        assert "\n" not in str(error.value)
    fitted = make(name).fit(*easy())
    with pytest.raises(DataError, match="put it into a list"):
        fitted.scores("one text")
    with pytest.raises(DataError, match="number 0 is float"):
        fitted.predict([float("nan")])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rules"])
def test_what_was_not_fitted_says_so(name, make, tmp_path):
    classifier = make(name)
    for use in (lambda: classifier.predict(["a"]), lambda: classifier.explain("a"), lambda: classifier.save(tmp_path)):
        with pytest.raises(CheckpointError, match="has not been fitted"):
            use()


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_folder_is_named(name, make, tmp_path):
    folder = make(name).fit(*easy()).save(tmp_path / "saved")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert not list(folder.rglob("*.pkl")) and (folder / "classifier.json") in files
    whole = json.loads((folder / "classifier.json").read_text())
    for change in (
        {"format_version": 99},
        {"labels": ["one"]},
        {"labels": 3},
        {"spec": {"name": "nothing"}},
        {"spec": 7},
    ):
        (folder / "classifier.json").write_text(json.dumps(whole | change))
        with pytest.raises(CheckpointError, match=r"classifier\.json"):
            load_classifier(folder)
    (folder / "classifier.json").write_text(json.dumps({k: v for k, v in whole.items() if k != "spec"}))
    with pytest.raises(CheckpointError, match="spec is missing"):
        load_classifier(folder)
    (folder / "classifier.json").write_text(json.dumps(whole))
    for path in files:
        if path.name in ("generation_config.json", "tokenizer_config.json", "llmanac.json", "README.md"):
            continue  # nothing in them decides what a classifier of a Llama's shape answers
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(LlmanacError) as error:
            load_classifier(folder)
        assert "\n" not in str(error.value)
        path.write_bytes(content)
    load_classifier(folder)
    with pytest.raises(CheckpointError, match="no such folder"):
        load_classifier(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("rules", "prompting")])
def test_every_parameter_of_a_learned_one_moves(name, make):
    texts, labels = easy()
    classifier, start = make(name), make(name)
    start.prepare(texts, labels, 0)
    before = {key: p.detach().clone() for key, p in start.network.named_parameters()}
    classifier.fit(texts, labels)
    for key, parameter in classifier.network.named_parameters():
        assert not parameter.detach().equal(before[key]), key
