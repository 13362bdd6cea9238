"""Classifiers over words beside scikit-learn, gradients derived by hand, and each other."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from _labelled import accuracy, denied, easy, sst2
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from llmanac.core import registry
from llmanac.core.errors import CheckpointError, DataError, SpecError
from llmanac.data.examples import Examples, ExampleStream, batch_of
from llmanac.models.classifiers._bags import words_of
from llmanac.models.classifiers.load import load_classifier

pytestmark = pytest.mark.usefixtures("one_thread")


def bow_of_sklearn(texts, labels, analyzer="word", strength=1.0):
    vectorizer = CountVectorizer(analyzer=analyzer)
    model = LogisticRegression(C=strength, max_iter=5000, tol=1e-10)
    return vectorizer, model.fit(vectorizer.fit_transform(texts), labels)


def rules_of(vectorizer, model, **choices):
    names = vectorizer.get_feature_names_out()
    weights = dict(zip(names, model.coef_[0], strict=True))
    return registry.build(
        "classifier",
        "rules",
        extractor="words",
        weights=weights,
        bias=model.intercept_[0],
        labels=model.classes_,
        **choices,
    )


# --- rules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["sklearn's", "a pattern", "ours"])
def test_rules_with_learned_weights_are_the_decision_function(words):
    """With coef_ as w, w . h is decision_function to the last bit, on real text, whichever f counts the words."""
    train, test = sst2("train"), sst2("test")
    vectorizer, model = bow_of_sklearn(train.texts[:2000], train.labels[:2000], words_of if words == "ours" else "word")
    if words == "sklearn's":
        analyze = vectorizer.build_analyzer()

        def counts(text):
            found = {}
            for word in analyze(text):
                found[word] = found.get(word, 0.0) + 1.0
            return found

        rules = rules_of(vectorizer, model, features=counts)
    elif words == "a pattern":
        rules = rules_of(vectorizer, model, pattern=r"(?u)\b\w\w+\b")
    else:
        rules = rules_of(vectorizer, model)
    theirs = model.decision_function(vectorizer.transform(test.texts))
    assert np.array_equal(rules.scores(test.texts)[:, 1], theirs)
    assert rules.predict(test.texts) == list(model.predict(vectorizer.transform(test.texts)))
    assert np.abs(theirs).max() > 1


def test_features_scores_and_decision_are_visible_and_swappable():
    rules = registry.build("classifier", "rules")
    text = "it is not a very good film , but it 's never dull and the cast is great"
    features = rules.features(text)
    assert features == {"not very good": 1.0, "never dull": 1.0, "great": 1.0}
    book = rules.book
    worth = book.factor * book.strength["very"] * rules.weights["good"]
    assert rules.weight("not very good") == (pytest.approx(worth),)
    total = worth + rules.weights["never dull"] + rules.weights["great"]
    assert rules.score(features)[0] == pytest.approx(total) and rules.decide(rules.score(features)) == "positive"
    explanation = rules.explain(text)
    assert explanation.exact and explanation.margin == pytest.approx(sum(p.effect for p in explanation.parts))
    shouting = registry.build("classifier", "rules", features=lambda text: {"great": float(text.count("!"))})
    assert shouting.predict(["dull!", "great"]) == ["positive", "negative"]
    doubting = registry.build("classifier", "rules", decide=lambda scores: "positive" if scores[0] > 3 else "negative")
    assert doubting.predict(["great", "great great"]) == ["negative", "positive"]
    with pytest.raises(CheckpointError, match="cannot be saved"):
        doubting.save("nowhere")


def test_rules_of_ones_own(tmp_path):
    path = tmp_path / "topics.toml"
    path.write_text(
        'bias = [0.0, 0.1, 0.0]\n[labels]\nsport = ["s"]\nmoney = []\nother = []\n'
        '[[group]]\nlabel = "sport"\nweight = 2.0\nwords = "goal match* \\"penalty kick\\""\n'
        "[weights.money]\nshares = 1.5\nmatch = 0.5\n"
    )
    rules = registry.build("classifier", "rules", rules=str(path))
    texts = ["the match was won by a penalty kick", "shares fell", "nothing"]
    assert rules.predict(texts) == ["sport", "money", "money"]
    assert rules.scores(texts)[0].tolist() == [2.0, 0.6, 0.0]  # the exact word goes before the stem
    rules.fit(["a", "b"], ["s", "money"])
    assert rules.predict(texts)[0] == "s"
    again = type(rules).load(rules.save(tmp_path / "saved"))
    assert np.array_equal(again.scores(texts), rules.scores(texts)) and again.predict(texts)[0] == "s"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels = 3", "labels: needs two or more labels"),
        ('labels = ["a"]', "labels: needs two or more"),
        ('labels = ["a", "b"]', "group: "),
        ('labels = ["a", "b"]\n[weights]\ngood = nan', "weights.good: nan is not a number"),
        ('labels = ["a", "b"]\n[weights]\ngood = "x"', "weights.good: 'x' is not a number"),
        ('labels = ["a", "b"]\n[[group]]\nlabel = "c"\nwords = "x"', "group 1: label 'c'"),
        ('labels = ["a", "b", "c"]\n[weights]\ngood = 1', "'good' needs a label"),
        ('labels = ["a", "b"]\nweigths = 1', "weigths: no such key; did you mean 'weights'"),
        ('labels = ["a", "b"]\n[negation]\nwindow = 1000', "negation.window: 1000"),
        ('labels = ["a", "b"]\n[[group]]\nwords = 3', "expected words"),
        ("labels = [", "not TOML"),
    ],
)
def test_a_rulebook_that_says_something_else_is_named(tmp_path, text, message):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        registry.build("classifier", "rules", rules=str(path))
    assert "rules.toml" in str(error.value) and "\n" not in str(error.value)


def test_the_rules_that_come_along_hold_no_word_twice_and_answer_without_training():
    rules = registry.build("classifier", "rules")
    assert rules.predict(["a superb film", "a waste of time", "das ist gut"]) == ["positive", "negative", "negative"]
    with pytest.raises(DataError, match="labels: 'ham'"):
        rules.fit(["a", "b"], ["spam", "ham"])
    with pytest.raises(DataError, match=r"no such rules; did you mean 'english-sentiment'"):
        registry.build("classifier", "rules", rules="english-sentimen")


# --- bow -----------------------------------------------------------------------------------------------------------


def test_bow_reaches_the_optimum_of_logistic_regression():
    """Same features, same penalty: the trained weights are scikit-learn's, the scores too."""
    train, test = sst2("train"), sst2("test")
    texts, labels = train.texts[:600], train.labels[:600]
    vectorizer, model = bow_of_sklearn(texts, labels, words_of)
    bow = registry.build("classifier", "bow", epochs=600, lr=0.05).fit(texts, labels)
    assert bow.vocabulary.words == list(vectorizer.get_feature_names_out())
    theirs = model.decision_function(vectorizer.transform(test.texts))
    ours = bow.scores(test.texts)[:, 1]
    assert np.abs(ours - theirs).max() < 0.01 and np.abs(theirs).max() > 2
    weights = bow.network.weight.detach().double().numpy()[:, 0]
    assert np.abs(weights - model.coef_[0]).max() < 0.005 and np.abs(model.coef_).max() > 0.5


def test_bow_of_three_labels_reaches_the_optimum_of_multinomial_regression():
    texts, labels = easy()
    labels = [("odd" if "music" in text else label) for text, label in zip(texts, labels, strict=True)]
    vectorizer, model = bow_of_sklearn(texts, labels, words_of)
    bow = registry.build("classifier", "bow", epochs=1500, lr=0.02).fit(texts, labels)
    ours = bow.scores(texts)
    theirs = model.decision_function(vectorizer.transform(texts))
    # softmax leaves the level of a row's scores open: compare differences
    assert np.abs((ours - ours[:, :1]) - (theirs - theirs[:, :1])).max() < 0.01
    assert bow.labels == tuple(model.classes_)


def test_bow_is_within_half_a_point_of_sklearn_on_sst2():
    """Whatever its own words are: CountVectorizer and LogisticRegression with their defaults."""
    train, test = sst2("train"), sst2("test")
    vectorizer, model = bow_of_sklearn(train.texts, train.labels)
    theirs = model.score(vectorizer.transform(test.texts), test.labels)
    bow = registry.build("classifier", "bow").fit(train.texts, train.labels)
    ours = accuracy(bow, test.texts, test.labels)
    assert abs(ours - theirs) <= 0.005 and ours > 0.79, (ours, theirs)


def test_bow_shares_no_strength_between_words_and_cbow_could():
    """A word that was never seen counts nothing, however alike it is to one that was."""
    texts, labels = easy()
    bow = registry.build("classifier", "bow").fit(texts, labels)
    prior = bow.scores(["superb"])
    assert np.array_equal(prior, bow.scores([""])) and np.array_equal(prior, bow.scores(["dreadful"]))
    assert "never seen" in bow.explain("superb").notes[0]


# --- cbow and deep-cbow --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["mean", "sum"])
def test_cbow_gradients_equal_those_derived_by_hand(pool):
    """s = x W^T + b over the pooled vectors; the loss's slopes r = p - y, all gradients written out in numpy."""
    lists, classes = [[0, 2, 2], [1], [], [3, 0, 1, 2]], [0, 2, 1, 1]
    cbow = registry.build("classifier", "cbow", dim=5, pool=pool, dropout=0.0)
    cbow.labels = ("a", "b", "c")
    network = cbow.build_network(4, 3).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64) * 0.7)
    objective = registry.build("objective", "classification")
    loss, units, metrics = objective.loss(network, objective.collate(Examples.of(lists, classes)))
    loss.backward()
    vectors, head, bias = (p.detach().numpy() for p in (network.embed.weight, network.head.weight, network.head.bias))
    by_word, by_head, by_bias, total, right = np.zeros((4, 5)), np.zeros((3, 5)), np.zeros(3), 0.0, 0
    for words, label in zip(lists, classes, strict=True):
        share = 1.0 if pool == "sum" else 1.0 / max(1, len(words))
        x = share * sum((vectors[w] for w in words), np.zeros(5))
        scores = head @ x + bias
        p = np.exp(scores - scores.max())
        p /= p.sum()
        total, right = total - np.log(p[label]), right + int(scores.argmax() == label)
        r = p - np.eye(3)[label]
        by_head, by_bias = by_head + np.outer(r, x), by_bias + r
        for w in words:
            by_word[w] += share * (r @ head)
    assert units == 4 and metrics["accuracy"] == right
    np.testing.assert_allclose(float(loss.detach()), total, rtol=1e-13)
    for parameter, hand in (
        (network.embed.weight, by_word),
        (network.head.weight, by_head),
        (network.head.bias, by_bias),
    ):
        np.testing.assert_allclose(parameter.grad.numpy(), hand, rtol=1e-12, atol=1e-14)
        assert np.abs(hand).max() > 0.01


def test_cbow_is_a_bag_of_words_of_low_rank():
    """Its scores are sums over words: E W is a table of weights, and explanations add up."""
    texts, labels = easy()
    cbow = registry.build("classifier", "cbow", dim=3).fit(texts, labels)
    cbow.network.double()
    text = "the film is charming and the cast is bad"
    numbers = cbow.vocabulary.encode(text)
    table = cbow.word_vectors() @ cbow.network.head.weight.detach().numpy().T
    by_hand = table[numbers].mean(0) + cbow.network.head.bias.detach().numpy()
    np.testing.assert_allclose(cbow.scores([text])[0, -1], by_hand[0], rtol=1e-12)
    explanation = cbow.explain(text)
    assert explanation.exact
    total = explanation.rest + sum(part.effect for part in explanation.parts)
    assert explanation.margin == pytest.approx(total, rel=1e-9)


def test_words_of_like_labels_get_like_vectors():
    texts, labels = easy()
    cbow = registry.build("classifier", "cbow").fit(texts, labels)
    nearest = dict(cbow.nearest("good", 20))
    assert {word for word, _ in cbow.nearest("good", 3)} == {"great", "charming", "funny"}
    assert nearest["great"] > 0.5 > nearest["bad"]


@pytest.mark.parametrize("hidden", [[7], [7, 5], [9, 4, 6]])
def test_without_the_nonlinearity_deep_cbow_is_cbow(hidden):
    texts, labels = denied()
    deep = registry.build("classifier", "deep-cbow", activation="none", hidden=hidden, epochs=2).fit(texts, labels)
    deep.network.double()
    linear = deep.collapsed()
    assert linear.spec.name == "cbow"
    ours, theirs = deep.scores(texts), linear.scores(texts)
    assert np.abs(ours - theirs).max() < 1e-14 * max(1.0, np.abs(theirs).max()) * 8
    curved = registry.build("classifier", "deep-cbow", hidden=hidden, epochs=2).fit(texts, labels)
    with pytest.raises(SpecError, match="activation: with relu"):
        curved.collapsed()


def test_only_deep_cbow_solves_negation():
    """A verdict and its denial have opposite labels: an exclusive or. Trained on some things, tested on others."""
    texts, labels = denied()
    held = [i for i, text in enumerate(texts) if "plot" in text or "music" in text]
    seen = [i for i in range(len(texts)) if i not in held]

    def fitted(name, **choices):
        classifier = registry.build("classifier", name, **choices)
        classifier.fit([texts[i] for i in seen], [labels[i] for i in seen])
        return accuracy(classifier, [texts[i] for i in held], [labels[i] for i in held])

    assert fitted("deep-cbow", epochs=60, dropout=0.0, lr=1e-2) == 1.0
    for name in ("bow", "cbow"):
        assert fitted(name, **({"epochs": 60, "dropout": 0.0, "lr": 1e-2} if name == "cbow" else {})) <= 0.75
    assert fitted("deep-cbow", epochs=60, dropout=0.0, lr=1e-2, activation="none") <= 0.75


def test_a_seed_decides_the_result_and_the_loop_the_curve(tmp_path):
    texts, labels = easy()
    first, second = (registry.build("classifier", "cbow").fit(texts, labels, seed=3) for _ in range(2))
    assert np.array_equal(first.scores(texts), second.scores(texts))
    other = registry.build("classifier", "cbow").fit(texts, labels, seed=4)
    assert not np.array_equal(first.scores(texts), other.scores(texts))
    kept = registry.build("classifier", "cbow").fit(texts, labels, seed=3, folder=tmp_path / "run")
    assert np.array_equal(first.scores(texts), kept.scores(texts))
    assert (tmp_path / "run" / "metrics.jsonl").is_file() and list((tmp_path / "run" / "checkpoints").iterdir())


# --- examples and their stream -------------------------------------------------------------------------------------


def test_examples_are_the_lists_they_were_made_of():
    lists, classes = [[3, 1], [], [2], [5, 5, 5]], [1, 0, 2, 1]
    examples = Examples.of(lists, classes)
    for which in (slice(1, 3), slice(None), slice(3, 1), slice(None, None, 2)):
        part = examples[which]
        assert [part[i].ids.tolist() for i in range(len(part))] == lists[which] and list(part.classes) == classes[which]
    picked = examples.pick(np.array([3, 0, 3]))
    assert picked.ids.tolist() == [5, 5, 5, 3, 1, 5, 5, 5] and list(picked.classes) == [1, 1, 1]
    batch = batch_of(examples, "padded")
    assert batch.ids.tolist() == [[3, 1, 0], [0, 0, 0], [2, 0, 0], [5, 5, 5]] and batch.lengths.tolist() == [2, 0, 1, 3]


def test_a_stream_of_examples_visits_each_once_an_epoch_and_resumes():
    examples = Examples.of([[i] for i in range(10)], range(10))
    stream = ExampleStream(examples, rows=4, seed=1)
    seen = np.concatenate([next(stream).ids for _ in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and list(seen[:10]) != list(seen[10:])
    again = ExampleStream(examples, rows=4, seed=1)
    for _ in range(2):
        next(again)
    state = again.state()
    resumed = ExampleStream(examples, rows=4, seed=1)
    resumed.restore(*state)
    assert np.array_equal(next(resumed).ids, seen[8:12])
    with pytest.raises(DataError, match="resume with the same data"):
        ExampleStream(examples, rows=4, seed=2).restore(*state)


def test_folders_with_the_old_names_of_fields_open(tmp_path):
    """Spec fields that were renamed: a saved folder has them under either name."""
    for name, old, new in (("rules", "find", "extractor"), ("bow", "strength", "inverse_regularization")):
        classifier = registry.build("classifier", name)
        if name == "bow":
            classifier.prepare(["good film", "bad film"], ["yes", "no"], 0)
        record = classifier.save(tmp_path / name) / "classifier.json"
        content = json.loads(record.read_text())
        content["spec"][old] = content["spec"].pop(new)
        record.write_text(json.dumps(content))
        assert load_classifier(tmp_path / name).spec == classifier.spec
    own = registry.find("classifier", "prompting").module().Spec
    words = (("no", " bad"), ("yes", " good"))
    (tmp_path / "prompting").mkdir()
    spec = {"name": "prompting", "words": [list(pair) for pair in words], "compare": "length", "between": " "}
    record = {"format_version": 1, "spec": spec, "labels": ["no", "yes"], "examples": []}
    (tmp_path / "prompting" / "classifier.json").write_text(json.dumps(record))
    opened = load_classifier(tmp_path / "prompting")
    assert opened.spec == own(verbalizer=words, normalization="length", separator=" ")
