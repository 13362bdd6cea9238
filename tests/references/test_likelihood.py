"""Log-likelihoods and perplexities against lm-eval's own code, for the same model in float64."""

from __future__ import annotations

import math
import random
import re

import numpy as np
import pytest
import torch
from _engine_models import EOS, ByteTokenizer, HistoryModel
from _likelihoods import loglikelihood_rolling
from _small_models import transformer
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import DataError, LlmanacError, RequestError, SpecError
from llmanac.core.registry import build
from llmanac.core.types import IGNORE, Batch
from llmanac.evaluate import likelihood
from llmanac.evaluate.bits_per_byte import score_texts, windows
from llmanac.evaluate.likelihood import loglikelihood, text_logprobs, token_logprobs
from llmanac.metrics.log_likelihood import log_likelihood, log_likelihoods
from llmanac.metrics.log_likelihood import token_logprobs as logprobs_of_logits
from llmanac.metrics.perplexity import bits_per_unit, perplexity
from llmanac.models.load import load_model
from llmanac.models.pairs import encode_pair
from llmanac.tokenizers.load import load_tokenizer, train_tokenizer

TEXT = (
    "The keeper of the light went down to the shore each morning. She counted the boats, wrote their names, and "
    "walked back before the tide came in. Nobody asked her why; the names were never read again. "
)
PAIRS = [
    ("The keeper of the", " light"),
    ("The keeper of the ", "light"),
    ("The keeper of the", " boats"),
    ("The keeper of the", " light went down"),
    ("", "She counted the boats."),
    ("Nobody asked", " her why; the names were never read"),
    ("Nobody asked her  \n ", "why"),
    ("x", "y"),
    ("She counted", ", wrote their nam"),
    (TEXT * 2, "boats"),
    (TEXT, TEXT[:150]),
    ("naïve 日本 ", "🙂 text"),
]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A GPT-2 of transformers in float64 with large weights and a tokenizer of ours, both on disk: (folder, model)."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer("bpe", [TEXT], vocab_size=300, special_tokens=["<|endoftext|>"])
    tokenizer.save(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=tokenizer.vocab_size, n_embd=24, n_layer=2, n_head=3, n_positions=64, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).double().eval()
    model.save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="module")
def harness(pretrained):
    """lm-eval's model over transformers' model: the outside reference."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    transformers = pytest.importorskip("transformers")
    folder, model = pretrained
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, device="cpu")


@pytest.fixture(scope="module")
def ours(pretrained):
    folder, _ = pretrained
    return load_model(folder, dtype="float64", device="cpu"), load_tokenizer(folder)


def asked(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


@pytest.mark.parametrize("batch_tokens", [1, 70, 4096])
def test_continuations_equal_lm_eval(harness, ours, batch_tokens):
    """Ragged, shared contexts, one longer than the model's context, trailing white space, an empty context."""
    model, tokenizer = ours
    pairs = [pair for pair in PAIRS if len(encode_pair(tokenizer, *pair)[1]) <= model.max_length]
    assert any(sum(map(len, encode_pair(tokenizer, *pair))) > model.max_length for pair in pairs)
    expected = harness.loglikelihood(asked("loglikelihood", pairs), disable_tqdm=True)
    found = loglikelihood(model, tokenizer, pairs, batch_tokens=batch_tokens)
    for (total, greedy), one in zip(expected, found, strict=True):
        assert one.total == pytest.approx(total, abs=1e-9) and one.greedy == greedy
        assert tuple(one) == (one.total, one.greedy)
    assert len({round(one.total, 6) for one in found}) >= len(found) - 1  # only the first two pairs are one text


def test_greedy_means_what_greedy_decoding_says(harness, ours):
    from llmanac.generate.engine import Engine

    model, tokenizer = ours
    done = Engine(model, tokenizer).generate(tokenizer.encode("The keeper"), max_new_tokens=5, stop_ids=())[0]
    text = tokenizer.decode(done.ids)
    pairs = [("The keeper", text), ("The keeper", text + "zz")]
    expected = harness.loglikelihood(asked("loglikelihood", pairs), disable_tqdm=True)
    assert [one.greedy for one in loglikelihood(model, tokenizer, pairs)] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
def test_rolling_equals_lm_eval(harness, ours, batch_tokens):
    model, tokenizer = ours
    texts = [TEXT * 3, TEXT, "short", TEXT[:64], "naïve 日本"]
    expected = harness.loglikelihood_rolling(asked("loglikelihood_rolling", [(t,) for t in texts]), disable_tqdm=True)
    found = loglikelihood_rolling(model, tokenizer, texts, batch_tokens=batch_tokens)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    fairer = loglikelihood_rolling(model, tokenizer, texts, context=32)
    assert fairer[2] == found[2] and abs(fairer[0] - found[0]) > 1e-3


def test_every_window_is_lm_evals():
    """All lengths, windows and contexts that are small: the same inputs, the same predicted tokens."""
    utils = pytest.importorskip("lm_eval.utils")
    for length in range(1, 20):
        tokens = list(range(100, 100 + length))
        for window in range(1, 8):
            for context in range(1, window + 1):
                theirs = list(utils.get_rolling_token_windows(tokens, 7, window, context))
                mine = list(windows(np.array([7, *tokens]), window, window - context + 1))
                assert [x.tolist() for x, _ in mine] == [inputs for inputs, _ in theirs]
                assert [y[y != IGNORE].tolist() for _, y in mine] == [predicted for _, predicted in theirs]


def test_corpus_figures_equal_lm_evals_task(ours):
    """Word and byte perplexity and bits per byte: its task's own counting and aggregation."""
    task = pytest.importorskip("lm_eval.api.task")
    metrics = pytest.importorskip("lm_eval.api.metrics")
    model, tokenizer = ours
    texts = [TEXT, " leading and trailing \n", "", "naïve 日本 🙂", "two\n\nlines"]
    sums = loglikelihood_rolling(model, tokenizer, texts)
    rows = {
        unit: [(nats, count(text)) for nats, text in zip(sums, texts, strict=True)]
        for unit, count in (("word", task.PerplexityTask.count_words), ("byte", task.PerplexityTask.count_bytes))
    }
    expected = {
        "word-perplexity": metrics.weighted_perplexity(rows["word"]),
        "byte-perplexity": metrics.weighted_perplexity(rows["byte"]),
        "bits-per-byte": metrics.bits_per_byte(rows["byte"]),
    }
    for name, value in expected.items():
        assert build("metric", name)(sums, texts=texts) == pytest.approx(value, rel=1e-12)
    # the same figure by the other road, but for the windows
    alone = score_texts(model, tokenizer, texts, stride=model.max_length, start=tokenizer.bos_id or tokenizer.eos_id)
    assert alone.bits_per_byte == pytest.approx(expected["bits-per-byte"], rel=1e-9)


def test_choices_are_normalised_as_lm_eval_does(ours):
    """acc, acc_norm and acc_bytes divide by nothing, characters and bytes; acc_mutual_info takes off the bare one."""
    model, tokenizer = ours
    choices = [" light", " boats, and the tide came in", " ñandú", " 日本語"]
    after = loglikelihood(model, tokenizer, [("The keeper of the", c) for c in choices])
    bare = loglikelihood(model, tokenizer, [("", c) for c in choices])
    sums, logprobs = np.array([one.total for one in after]), [one.logprobs for one in after]
    character = sums / [float(len(c)) for c in choices]
    byte = sums / [float(len(c.encode("utf-8"))) for c in choices]
    np.testing.assert_allclose(build("metric", "log-likelihood")(logprobs), sums, rtol=1e-12)
    np.testing.assert_allclose(log_likelihoods(logprobs, per="character", texts=choices), character, rtol=1e-12)
    np.testing.assert_allclose(log_likelihoods(logprobs, per="byte", texts=choices), byte, rtol=1e-12)
    np.testing.assert_allclose(
        log_likelihoods(logprobs, without=[one.total for one in bare]), sums - [one.total for one in bare], rtol=1e-12
    )
    assert character.argmax() != sums.argmax() or byte.argmax() != character.argmax()  # dividing does matter


# ---------------------------------------------------------------- any model, by definition


def by_definition(model, ids, first):
    """ln p of each id after those before it, one call a token."""
    out = []
    for at in range(len(ids)):
        logits = model.logits_of([*first, *ids[:at]]).double()
        out.append(float(logits.log_softmax(-1)[ids[at]]))
    return out


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), max_size=8),
    st.integers(1, 64),
)
def test_any_language_model_in_any_batch(pairs, batch_tokens):
    """A model that has nothing but `start` and `forward`, and texts of any characters."""
    model, tokenizer = HistoryModel(), ByteTokenizer()
    pairs = [(c.encode("utf-8", "ignore").decode(), t.encode("utf-8", "ignore").decode()) for c, t in pairs]
    for pair, one in zip(pairs, loglikelihood(model, tokenizer, pairs, batch_tokens=batch_tokens), strict=True):
        start, rest = encode_pair(tokenizer, *pair)
        assert start and one.ids == tuple(rest)
        np.testing.assert_allclose(one.logprobs, by_definition(model, rest, start), rtol=0, atol=1e-12)


def test_a_continuation_longer_than_the_context_is_read_in_windows(monkeypatch):
    monkeypatch.setattr(likelihood, "LOGITS", 3000)  # so that a window is read in parts, too
    model, tokenizer = HistoryModel(max_length=10), ByteTokenizer()
    text = "a continuation of many windows"
    one = loglikelihood(model, tokenizer, [("before", text)])[0]
    ids, expected = [ord("e"), *text.encode()], []
    for start in range(0, len(ids) - 1, 10):
        stop = min(start + 10, len(ids) - 1)
        first = 0 if start == 0 else stop - 10
        expected += by_definition(model, ids[first + 1 : stop + 1], [ids[first]])[start - first :]
    np.testing.assert_allclose(one.logprobs, expected, rtol=0, atol=1e-12)
    assert len(one.logprobs) == len(text)


def test_logits_are_bounded_and_shared_contexts_are_read_once(monkeypatch):
    model, tokenizer = HistoryModel(max_length=4000), ByteTokenizer()
    context = "x" * 500
    pairs = [(context, letter) for letter in "ABCD"]
    full = loglikelihood(model, tokenizer, pairs)
    assert model.tokens_read == 500
    monkeypatch.setattr(likelihood, "LOGITS", 300)
    parts = loglikelihood(model, tokenizer, [*pairs, (context, "a longer continuation")])
    assert [one.logprobs for one in parts[:4]] == [one.logprobs for one in full]


def test_token_logprobs_are_exact_and_leave_a_model_in_training():
    model = transformer(max_length=32).train()
    ids = torch.randint(61, (3, 20), generator=torch.Generator().manual_seed(0)).numpy()
    pieces = [(row[:-1], row[1:].astype(np.int64)) for row in ids]
    pieces[1][1][:5] = IGNORE
    found = token_logprobs(model, pieces, batch_tokens=25)
    assert model.training
    for (x, y), values in zip(pieces, found, strict=True):
        logits = model.eval()(torch.from_numpy(x)[None]).logits[0].detach()
        expected = logprobs_of_logits(logits.numpy()[y != IGNORE], y[y != IGNORE])
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-10)
        model.train()


def test_a_tokenizer_that_begins_texts_with_bos():
    """lm-eval's convention: a context begins with bos, an empty one is bos, and a rolling text predicts its bos."""
    model, tokenizer = HistoryModel(), ByteTokenizer()
    tokenizer.adds_bos = True
    bos, a, b = tokenizer.bos_id, *b"ab"
    assert encode_pair(tokenizer, "a", "b") == ([bos, a], [b])
    assert encode_pair(tokenizer, "", "b") == ([bos], [b])

    def nll(batch: Batch, reduction: str = "none"):
        logits = model.forward(batch).logits
        return -logits.log_softmax(-1).gather(-1, batch.targets.clamp(min=0)[..., None])[..., 0]

    model.nll = nll
    rolled = loglikelihood_rolling(model, tokenizer, ["ab"])
    assert rolled[0] == pytest.approx(sum(by_definition(model, [bos, a, b], [bos])))


# ---------------------------------------------------------------- formulas and refusals


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-50, 0), max_size=20))
def test_log_likelihood_and_perplexity_are_their_formulas(values):
    total = math.fsum(values)
    assert log_likelihood(values) == pytest.approx(total, abs=1e-9)
    if values:
        bits = -total / math.log(2) / len(values)
        assert bits_per_unit(total, len(values)) == pytest.approx(bits, abs=1e-12)
        assert perplexity(total, len(values)) == pytest.approx(2**bits)
        assert build("metric", "perplexity")([total], tokens=[len(values)]) == pytest.approx(2**bits)


def test_a_uniform_guess_has_the_perplexity_of_its_choices():
    logits = np.zeros((7, 40))
    values = logprobs_of_logits(logits, np.arange(7))
    assert perplexity(log_likelihood(values), 7) == pytest.approx(40)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 3, 11)) * 300
    ids = rng.integers(11, size=(5, 3))
    expected = torch.tensor(logits).log_softmax(-1).gather(-1, torch.tensor(ids)[..., None])[..., 0]
    np.testing.assert_allclose(logprobs_of_logits(logits, ids), expected, rtol=1e-12)


def test_a_corpus_is_not_the_mean_of_its_texts():
    nats, tokens = [-10.0, -100.0], [10, 20]
    assert perplexity(nats, tokens) == pytest.approx(math.exp(110 / 30))
    assert perplexity(nats, tokens) != pytest.approx((math.exp(1) + math.exp(5)) / 2)
    assert perplexity(-math.inf, 3) == math.inf and math.isnan(perplexity([], [])) and perplexity(-1e9, 1) == math.inf


def test_words_are_counted_as_lm_eval_counts_them():
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices(["a", "bc", " ", "\n", "\t", "é", "\u00a0", "\u3000"], k=rng.randrange(12)))
        expected = len(re.split(r"\s+", text))
        assert build("metric", "word-perplexity")([-1.0], texts=[text]) == pytest.approx(math.exp(1 / expected))


def test_refusals_say_what_to_do():
    model, tokenizer = HistoryModel(max_length=8), ByteTokenizer()
    none = ByteTokenizer()
    none.bos_id = none.eos_id = None
    for message, call in {
        "no bos or eos": lambda: loglikelihood(model, none, [("", "a")]),
        "expected a list of": lambda: loglikelihood(model, tokenizer, ["ab", "cd"]),
        "window: 9": lambda: text_logprobs(model, [[1]], EOS, window=9),
        "context: 9": lambda: text_logprobs(model, [[1]], EOS, context=9),
        "not the logarithm": lambda: log_likelihood([-1.0, 0.5]),
        "need their 1 texts": lambda: log_likelihoods([[-1.0]], per="byte"),
        "2 log-likelihoods but 1": lambda: bits_per_unit([-1.0, -2.0], [3]),
        "needs texts": lambda: build("metric", "byte-perplexity")([-1.0]),
    }.items():
        with pytest.raises((DataError, RequestError), match=message):
            call()
    with pytest.raises(DataError, match="logarithm"):
        log_likelihood([math.nan])
    for name, wrong in (
        ("perplexity", {"unit": "line"}),
        ("perplexity", {"form": "x"}),
        ("log-likelihood", {"per": 1}),
    ):
        with pytest.raises(SpecError):
            build("metric", name, **wrong)
    merging = train_tokenizer("bpe", ["abab " * 50], vocab_size=270, special_tokens=["<|e|>"])
    assert len(merging.encode("ab")) == 1
    with pytest.raises(LlmanacError, match="no token of its own"):
        encode_pair(merging, "a", "b")
