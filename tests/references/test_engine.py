"""The engine's own rules, on models whose answers are known exactly."""

from __future__ import annotations

import pytest
import torch
from _engine_models import EOS, USER, ByteTokenizer, HistoryModel, script_of
from _ties import agreement, near_ties

from llmanac.core.errors import LlmanacError, RequestError
from llmanac.generate.decoding import greedy, temperature, top_k
from llmanac.generate.engine import Engine

PROMPTS = ["The first prompt", "second", "x", "A rather longer prompt than the others, with more bytes in it", "five5"]


def saying(text, prompt="ab", **options):
    return Engine(HistoryModel(script=script_of(text, len(prompt)), **options), ByteTokenizer())


def by_hand(model, prompt, count):
    """Greedy decoding with nothing but `logits_of`."""
    ids, out = list(prompt.encode()), []
    while len(out) < count and (not out or out[-1] != EOS):
        out.append(int(model.logits_of(ids).argmax()))
        ids.append(out[-1])
    return out


@pytest.mark.parametrize("rows", [1, 2, 3, 32])
def test_greedy_equals_the_definition_in_any_batch(rows):
    model = HistoryModel()
    done = Engine(model, ByteTokenizer(), rows=rows).generate(PROMPTS, max_new_tokens=40)
    assert [c.ids for c in done] == [by_hand(model, p, 40) for p in PROMPTS]
    assert {c.finish_reason for c in done} == {"stop", "length"} or len(done[0].ids) == 40


def test_nothing_is_computed_for_a_row_that_ended():
    model = HistoryModel()
    done = Engine(model, ByteTokenizer()).generate(PROMPTS, max_new_tokens=30)
    fed = sum(len(c.prompt_ids) + len(c.ids) - 1 for c in done)  # the last token of each is never fed back
    assert model.tokens_read == fed


def test_shapes_of_prompts_and_their_order():
    engine = Engine(HistoryModel(), ByteTokenizer())
    one = engine.generate("second", max_new_tokens=5)
    assert len(one) == 1
    same = [list(b"second"), "second", tuple(b"second")]
    assert [c.ids for c in engine.generate(same, max_new_tokens=5)] == [one[0].ids] * 3
    assert engine.generate(list(b"second"), max_new_tokens=5)[0].ids == one[0].ids
    assert engine.generate([]) == []
    both = engine.generate(["second", "x"], n=2, temperature=1.0, max_new_tokens=5)
    assert [(c.prompt_tokens, c.index) for c in both] == [(6, 0), (6, 1), (1, 0), (1, 1)]


def test_seeded_samples_do_not_depend_on_the_batch_or_on_n():
    engine = Engine(HistoryModel(), ByteTokenizer())
    options = {"temperature": 0.9, "top_p": 0.95, "max_new_tokens": 20}
    alone = [engine.generate(p, seed=3, **options)[0].ids for p in PROMPTS]
    assert [c.ids for c in engine.generate(PROMPTS, seed=3, **options)] == alone
    assert [c.ids for c in engine.generate(PROMPTS[::-1], seed=3, **options)] == alone[::-1]
    assert [
        c.ids for c in Engine(HistoryModel(), ByteTokenizer(), rows=2).generate(PROMPTS, seed=3, **options)
    ] == alone
    many = engine.generate(PROMPTS, seed=3, n=4, **options)
    assert [c.ids for c in many if c.index == 0] == alone
    assert len({tuple(c.ids) for c in many}) == len(many)  # samples of one prompt differ
    assert [c.ids for c in engine.generate(PROMPTS, seed=4, **options)] != alone


def test_requests_of_different_kinds_share_a_batch():
    model = HistoryModel()
    engine, scheduler = Engine(model, ByteTokenizer()), Engine(model, rows=8).scheduler()
    kinds = [
        {},
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 5},
        {"top_p": 0.5, "temperature": 2.0, "logprobs": 3},
    ]
    requests = [engine.request(p, max_new_tokens=12, seed=1, **k) for p, k in zip(PROMPTS, kinds, strict=False)]
    for request in requests:
        scheduler.submit(request)
        scheduler.step()  # they join one after another, at different lengths
    while scheduler.busy:
        scheduler.step()
    for prompt, kind, request in zip(PROMPTS, kinds, requests, strict=False):
        alone = engine.generate(prompt, max_new_tokens=12, seed=1, **kind)[0]
        assert [s.id for s in request.sequences[0].token_logprobs] == alone.ids


def test_cancel_frees_the_rows_and_leaves_the_others_alone():
    model = HistoryModel()
    engine, scheduler = Engine(model, ByteTokenizer()), Engine(model, rows=2).scheduler()
    requests = [engine.request(p, max_new_tokens=10, stop_ids=()) for p in PROMPTS[:4]]
    for request in requests:
        scheduler.submit(request)
    scheduler.step()
    scheduler.cancel(requests[0])
    scheduler.cancel(requests[3])
    assert len(scheduler.running) == 1 and len(scheduler.waiting) == 1
    while scheduler.busy:
        scheduler.step()
    assert [len(r.sequences[0].token_logprobs) for r in requests] == [1, 10, 10, 0]
    expected = engine.generate(PROMPTS[1:3], max_new_tokens=10, stop_ids=())
    assert [[s.id for s in r.sequences[0].token_logprobs] for r in requests[1:3]] == [c.ids for c in expected]


# ---------------------------------------------------------------- text


def test_eos_is_counted_and_has_no_text():
    done = saying("hello").generate("ab")[0]
    assert (done.text, done.finish_reason, done.ids) == ("hello", "stop", [*b"hello", EOS])


def test_stop_ids_replace_the_default():
    engine = saying("hello")
    assert engine.generate("ab", stop_ids=[ord("l")])[0].ids == list(b"hel")
    on = engine.generate("ab", stop_ids=[], max_new_tokens=9)[0]
    assert len(on.ids) == 9 and on.ids[5] == EOS and on.finish_reason == "length"


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("wor", "hello "),
        (["xyz", "lo w"], "hel"),
        (["hello world", "lo"], "hel"),  # the first to be complete counts ...
        (["o", "lo"], "hel"),  # ... and of two that end together the longer
        (["world!"], "hello world"),  # a stop string that only began is text
        ("<|user|>", "hello world"),
    ],
)
def test_stop_strings(stop, text):
    engine = saying("hello world")
    done = engine.generate("ab", stop=stop)[0]
    assert (done.text, done.finish_reason) == (text, "stop")
    assert "".join(p.text for p in engine.stream("ab", stop=stop)) == text


def test_a_special_token_works_as_a_stop_string():
    done = saying([*b"hi", USER, *b"more"]).generate("ab", stop="<|user|>")[0]
    assert done.text == "hi" and done.ids[-1] == USER and done.finish_reason == "stop"
    assert saying([*b"hi", USER, *b"more"]).generate("ab")[0].text == "himore"


def test_stop_string_hidden_until_it_is_ruled_out():
    pieces = [p.text for p in saying("a STOX STOP b").stream("ab", stop="STOP")]
    shown = [t for t in pieces if t]
    assert shown == ["a", " ", "STOX", " "]


def test_stream_never_cuts_a_character():
    text = "naïve 日本語 🙂 e\u0301"
    pieces = list(saying(text).stream("ab"))
    assert "".join(p.text for p in pieces) == text
    assert all("\ufffd" not in p.text for p in pieces)
    assert [p.finish_reason for p in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert [i for p in pieces for i in p.ids] == [*text.encode(), EOS]


def test_bytes_that_are_no_character_become_the_replacement_in_both_forms():
    ids = [0xE2, 0x82, ord("a"), 0xFF, 0xF0, 0x9F]
    engine = saying(ids)
    text = bytes(ids).decode("utf-8", "replace")
    assert engine.generate("ab")[0].text == text
    assert "".join(p.text for p in engine.stream("ab")) == text


def test_stream_of_several_samples_equals_generate():
    engine = Engine(HistoryModel(), ByteTokenizer())
    options = {"n": 3, "temperature": 1.0, "max_new_tokens": 15, "seed": 9, "stop": ["e", "zq"]}
    texts = ["", "", ""]
    for piece in engine.stream("second", **options):
        texts[piece.index] += piece.text
    assert texts == [c.text for c in engine.generate("second", **options)]


# ---------------------------------------------------------------- limits and errors


def test_a_full_context_ends_with_length():
    engine = Engine(HistoryModel(max_length=20), ByteTokenizer())
    done = engine.generate(["a" * 20, "a" * 19, "a" * 5], max_new_tokens=100, stop_ids=())
    assert [len(c.ids) for c in done] == [1, 2, 16]
    assert {c.finish_reason for c in done} == {"length"}
    with pytest.raises(RequestError, match=r"21 tokens do not fit the model's context of 20"):
        engine.generate("a" * 21)


def test_empty_prompt_starts_from_the_beginning_of_text():
    tokenizer = ByteTokenizer()
    engine = Engine(HistoryModel(), tokenizer)
    assert engine.generate("", max_new_tokens=3)[0].ids == engine.generate([[259]], max_new_tokens=3)[0].ids
    tokenizer.bos_id = None
    assert engine.generate("", max_new_tokens=3)[0].prompt_ids == (EOS,)
    tokenizer.eos_id = None
    with pytest.raises(RequestError, match="no begin-of-text token"):
        engine.generate("")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": -1}, "max_new_tokens: -1 is not at least 0"),
        ({"max_new_tokens": 1.5}, "not a whole number"),
        ({"temperature": -0.1}, "temperature: -0.1 is not at least 0"),
        ({"temperature": float("nan")}, "not a finite number"),
        ({"top_k": 0}, "top_k: 0"),
        ({"top_p": 1.5}, "top_p: 1.5 must be from 0 to 1"),
        ({"n": 0}, "n: 0"),
        ({"stop": [""]}, "stop: ''"),
        ({"stop": [3]}, "stop: 3"),
        ({"logprobs": 1000}, "logprobs: 1000 is not between 0 and 100"),
        ({"temprature": 1.0}, "did you mean 'temperature'"),
        ({"decoding": [greedy.Spec()], "top_p": 0.5}, "not both"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(RequestError, match=message):
        Engine(HistoryModel(), ByteTokenizer()).generate("ab", **options)


def test_bad_ids_and_missing_tokenizer_are_named():
    with pytest.raises(RequestError, match="token id 300 is not in the model's vocabulary of 260"):
        Engine(HistoryModel(), ByteTokenizer()).generate([[1, 300]])
    bare = Engine(HistoryModel())
    assert bare.generate([[1, 2, 3]], max_new_tokens=4)[0].text == ""
    with pytest.raises(RequestError, match="no tokenizer"):
        bare.generate("text")
    with pytest.raises(RequestError, match="stop strings need a tokenizer"):
        bare.generate([[1]], stop="x")


def test_logits_that_are_not_numbers_are_an_error():
    model = HistoryModel()
    model.logits_of = lambda ids: torch.full((260,), torch.nan, dtype=torch.float64)
    with pytest.raises(LlmanacError, match="not finite"):
        Engine(model, ByteTokenizer()).generate("ab")


# ---------------------------------------------------------------- log-probabilities, methods, ties


def test_logprobs_are_those_of_the_raw_model():
    model = HistoryModel()
    options = {"temperature": 0.5, "top_k": 3, "max_new_tokens": 8, "seed": 2}
    done = Engine(model, ByteTokenizer()).generate("second", logprobs=5, **options)[0]
    ids = list(b"second")
    for score in done.token_logprobs:
        expected = model.logits_of(ids).log_softmax(0)
        assert score.logprob == pytest.approx(float(expected[score.id]), abs=1e-12)
        values, best = expected.topk(5)
        assert list(score.top) == best.tolist()
        assert list(score.top.values()) == pytest.approx(values.tolist(), abs=1e-12)
        ids.append(score.id)


@pytest.mark.parametrize("length", [1, 2, 7, 150])
def test_prompt_logprobs_and_exact_equality_of_the_best(length, monkeypatch):
    from llmanac.generate import schedule

    model, prompt = HistoryModel(), [(i * 37) % 250 for i in range(length)]
    for room in (2**25, 260 * 4):  # in one call, and four tokens at a time
        monkeypatch.setattr(schedule, "SCORED_LOGITS", room)
        engine = Engine(model, ByteTokenizer())
        done = engine.generate([prompt, prompt[:1], "mixed in"], prompt_logprobs=1, max_new_tokens=1, logprobs=1)[0]
        assert [s.id for s in done.prompt_token_logprobs] == prompt
        assert done.prompt_token_logprobs[0].logprob is None
        for i, score in enumerate(done.prompt_token_logprobs[1:], 1):
            expected = model.logits_of(prompt[:i]).log_softmax(0)
            assert score.logprob == pytest.approx(float(expected[score.id]), abs=1e-12)
            assert (score.logprob == max(score.top.values())) == (int(expected.argmax()) == score.id)
        assert done.ids == engine.generate([prompt], max_new_tokens=1)[0].ids
    scored = engine.generate([prompt], prompt_logprobs=0, max_new_tokens=0)[0]
    assert scored.ids == [] and scored.finish_reason == "length" and len(scored.prompt_token_logprobs) == length


def test_decoding_methods_can_be_given_as_specs():
    engine = Engine(HistoryModel(), ByteTokenizer())
    named = engine.generate("second", temperature=0.7, top_k=4, seed=5, max_new_tokens=10)
    specs = engine.generate(
        "second", decoding=[temperature.Spec(temperature=0.7), top_k.Spec(k=4)], seed=5, max_new_tokens=10
    )
    assert named[0].ids == specs[0].ids
    assert (
        engine.generate("second", decoding=[greedy.Spec()], max_new_tokens=10)[0].ids
        == engine.generate("second", max_new_tokens=10)[0].ids
    )


def test_ties_are_counted_and_real_differences_are_not_excused():
    engine = Engine(HistoryModel(), ByteTokenizer())
    done = engine.generate(PROMPTS, max_new_tokens=10, stop_ids=())
    same = agreement(done, [c.ids for c in done])
    assert (same.holds, same.near_ties, same.tokens) == (True, 0, 50)
    changed = [c.ids for c in done]
    changed[1] = [*changed[1][:4], (changed[1][4] + 1) % 256, *changed[1][5:]]
    margin = done[1].token_logprobs[4].margin
    assert agreement(done, changed, tolerance=margin * 0.99).differences == 1
    assert agreement(done, changed, tolerance=margin * 1.01).near_ties == 1
    assert not agreement(done, [*changed[:1], changed[1][:4], *changed[2:]], tolerance=1e-9).holds
    assert near_ties(done, tolerance=1e9) == 50 and near_ties(done, tolerance=0) == 0
    for completion in done:  # the margin is the gap of the two best logits
        ids = list(completion.prompt_ids)
        for score in completion.token_logprobs:
            best = model_top_two(engine.model, ids)
            assert score.margin == pytest.approx(best, abs=1e-12)
            ids.append(score.id)


def model_top_two(model, ids):
    values = model.logits_of(ids).topk(2).values
    return float(values[0] - values[1])
