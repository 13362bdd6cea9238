"""Beam search against transformers, against enumeration, and with all that it is combined with."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from _engine_models import ByteTokenizer, HistoryModel
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessorList, MinPLogitsWarper

from llmanac.core.errors import LlmanacError, RequestError
from llmanac.core.spec import make_method
from llmanac.generate._options import Allowed
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


def test_the_texts_that_transformers_finds_end_early_and_differ_from_greedy(pair):
    _, model = pair
    prompts = prompts_of(4, 3)
    found = Engine(model).generate(prompts, max_new_tokens=12, stop_ids=[EOS_ID], beams=3, n=3)
    assert {one.finish_reason for one in found} == {"stop", "length"} and min(len(one.ids) for one in found) < 6
    best = Engine(model).generate(prompts, max_new_tokens=12, stop_ids=(), beams=5)
    plain = Engine(model).generate(prompts, max_new_tokens=12, stop_ids=())
    assert [one.ids for one in best] != [one.ids for one in plain]
    for one, greedy in zip(best, plain, strict=True):
        assert one.score == pytest.approx(math.fsum(one.arrays.logprobs) / 12, abs=1e-12)
        assert math.fsum(one.arrays.logprobs) > math.fsum(greedy.arrays.logprobs) - 0.5
    assert [one.ids for one in Engine(model).generate(prompts, max_new_tokens=12, stop_ids=(), beams=1)] == [
        one.ids for one in plain
    ]


@pytest.mark.parametrize(
    ("ours", "peers"),
    [
        ({"repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
        ({"no_repeat_ngram": 2}, {"no_repeat_ngram_size": 2}),
        ({"logit_bias": {5: 2.0, EOS_ID: 1.0}}, {"sequence_bias": [[[5], 2.0], [[EOS_ID], 1.0]]}),
        ({"min_p": 0.7}, {"logits_processor": LogitsProcessorList([MinPLogitsWarper(0.7)])}),
        ({"allowed_ids": [1, 5, EOS_ID, 30]}, {"prefix_allowed_tokens_fn": lambda batch, ids: [1, 5, EOS_ID, 30]}),
        (
            {"repetition_penalty": 1.4, "no_repeat_ngram": 3, "logit_bias": {5: 1.0}},
            {"repetition_penalty": 1.4, "no_repeat_ngram_size": 3, "sequence_bias": [[[5], 1.0]]},
        ),
    ],
    ids=lambda options: "-".join(options),
)
def test_methods_act_on_log_probabilities_as_in_transformers(pair, ours, peers):
    peer, model = pair
    prompts = prompts_of(3, 11)
    common = {"length_penalty": 0.5, "n": 2}
    expected = theirs(peer, prompts, 10, EOS_ID, num_beams=3, **common, **peers)
    options = {"max_new_tokens": 10, "stop_ids": [EOS_ID], "beams": 3, **common}
    found = Engine(model).generate(prompts, **options, **ours)
    same(found, expected)
    assert [one.ids for one in Engine(model).generate(prompts, **options)] != [one.ids for one in found]


def plain_search(model, prompt, new, beams, *, ends=(), groups=1, diversity=0.0, divisor=lambda n: n, allowed=None):
    """Vijayakumar et al. 2018, algorithm 1, from its text: every candidate of every beam is written out and sorted.

    Returns (score, tokens) of all groups' finished texts, best first; a search ends at its last token or when as many
    texts as it has beams are finished and none that goes on has a better score.
    """
    size = beams // groups
    kept = [[(0.0, ())] for _ in range(groups)]
    done: list[list[tuple[float, tuple[int, ...]]]] = [[] for _ in range(groups)]
    for length in range(1, new + 1):
        chosen: Counter[int] = Counter()
        for g in range(groups):
            candidates = []
            for score, text in kept[g]:
                logs = model.logits_of([*prompt, *text]).log_softmax(-1).tolist()
                for token in range(model.vocab_size) if allowed is None else allowed(text):
                    candidates.append((score + logs[token] - diversity * chosen[token], (*text, token)))
            candidates.sort(reverse=True)
            over = [text[-1] in ends or length == new for _, text in candidates]
            done[g] += [
                (s / divisor(length), t) for (s, t), end in zip(candidates[:size], over[:size], strict=True) if end
            ]
            done[g] = sorted(done[g], reverse=True)[:size]
            kept[g] = [one for one, end in zip(candidates, over, strict=True) if not end][:size]
            if kept[g] and len(done[g]) == size and kept[g][0][0] / divisor(length) <= done[g][-1][0]:
                kept[g] = []
            chosen.update(text[-1] for _, text in kept[g])
    return sorted((one for group in done for one in group), reverse=True)


def agrees(found, expected):
    assert [tuple(one.ids) for one in found] == [text for _, text in expected[: len(found)]]
    assert [one.score for one in found] == pytest.approx([score for score, _ in expected[: len(found)]], abs=1e-9)


FORMS = {"power": lambda a: lambda n: n**a, "gnmt": lambda a: lambda n: ((5 + n) / 6) ** a}


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.7, 2.0])
@pytest.mark.parametrize("form", FORMS)
def test_with_beams_for_every_text_the_best_is_that_of_enumeration(form, penalty):
    size, new, end = 5, 4, 2
    model = HistoryModel(vocab_size=size, scale=1.0)
    texts = []
    for length in range(1, new + 1):
        for text in itertools.product(range(size), repeat=length):
            if end in text[:-1] or (text[-1] != end and length < new):
                continue
            total = math.fsum(
                model.logits_of([1, 3, *text[:at]]).log_softmax(-1)[text[at]].item() for at in range(length)
            )
            texts.append((total / FORMS[form](penalty)(length), text))
    texts.sort(reverse=True)
    search = beam.Spec(beams=len(texts), length_form=form, length_penalty=penalty, early_stopping="never")
    found = Engine(model).generate([[1, 3]], decoding=[search], max_new_tokens=new, stop_ids=[end], n=len(texts))
    agrees(found, texts)
    narrow = Engine(model).generate([[1, 3]], decoding=[beam.Spec(beams=2)], max_new_tokens=new, stop_ids=[end])
    assert tuple(narrow[0].ids) in {text for _, text in texts}


@pytest.mark.parametrize(("beams", "groups", "diversity"), [(2, 2, 1.0), (6, 3, 0.4), (6, 2, 3.0), (4, 4, 0.0)])
def test_diverse_beam_equals_the_algorithm_written_out(beams, groups, diversity):
    model = HistoryModel(vocab_size=11, scale=1.0)
    engine, prompts = Engine(model), [[1], [4, 4, 2]]
    how = {"max_new_tokens": 7, "stop_ids": [3], "beams": beams, "n": beams}
    found = engine.generate(prompts, **how, beam_groups=groups, diversity=diversity)
    for number, prompt in enumerate(prompts):
        expected = plain_search(model, prompt, 7, beams, ends=[3], groups=groups, diversity=diversity)
        agrees(found[number * beams :][:beams], expected)
    if diversity == 0:  # every group finds the same
        assert len({tuple(one.ids) for one in found[:beams]}) == 1
    else:
        assert [one.ids for one in found] != [one.ids for one in engine.generate(prompts, **how)]


def test_one_group_is_beam_search_and_aliases_name_the_variants():
    model = HistoryModel(vocab_size=11, scale=1.0)
    how = {"max_new_tokens": 7, "stop_ids": [3], "n": 4}
    plain = Engine(model).generate([[1]], **how, beams=4)
    agrees(plain, plain_search(model, [1], 7, 4, ends=[3]))
    one = make_method("decoding", {"name": "diverse-beam", "groups": 1, "diversity": 9.0})
    assert [(c.ids, c.score) for c in Engine(model).generate([[1]], **how, decoding=[one])] == [
        (c.ids, c.score) for c in plain
    ]
    gnmt = Engine(model).generate([[1]], **how, decoding=["length-penalty"])
    agrees(gnmt, plain_search(model, [1], 7, 4, ends=[3], divisor=FORMS["gnmt"](0.6)))
    wide = Engine(model).generate([[1]], **{**how, "n": 6}, decoding=["diverse-beam"], beams=6, beam_groups=3)
    agrees(wide, plain_search(model, [1], 7, 6, ends=[3], groups=3, diversity=0.5))


def test_stop_strings_end_beams_across_tokens():
    """Against the algorithm with texts ending where they contain a stop string; and no text contains one."""
    model = HistoryModel(vocab_size=100, scale=1.2)

    class Letters(ByteTokenizer):
        vocab_size, special_tokens = 100, {}

        def token_bytes(self, id):
            return b"abc"[id % 3 :] + b"abc"[: id % 2]

    tokens, stops = Letters(), ["bca", "cabb"]
    how = {"max_new_tokens": 8, "stop_ids": [], "beams": 4, "n": 4}
    found = Engine(model, tokens).generate([[1, 2]], stop=stops, **how)
    ended = [one for one in found if one.finish_reason == "stop"]
    assert ended and all(not any(stop in one.text for stop in stops) for one in found)
    for one in ended:
        complete = b"".join(map(tokens.token_bytes, one.ids)).decode()
        cut = min(complete.find(stop) for stop in stops if stop in complete)
        assert one.text == complete[:cut] and not any(
            stop in b"".join(map(tokens.token_bytes, one.ids[:-1])).decode() for stop in stops
        )
    pieces = list(Engine(model, tokens).stream([1, 2], stop=stops, **how))
    assert ["".join(p.text for p in pieces if p.index == i) for i in range(4)] == [one.text for one in found]
    assert [p.finish_reason for p in pieces] == [one.finish_reason for one in found]


class Even:
    """Any text whose tokens sum to an even number, at most one token beyond the sum's parity at a time."""

    def __init__(self, copies=0):
        self.odd, self.copies = False, copies

    def mask(self):
        allowed = torch.ones(11, dtype=torch.bool)
        allowed[3] = not self.odd  # the token that ends
        allowed[5:] = self.odd
        return allowed

    def forced(self):
        return None

    def advance(self, token):
        self.odd ^= bool(token % 2)


class Copied(Even):
    def copy(self):
        other = Copied()
        other.odd = self.odd
        return other


@pytest.mark.parametrize("kind", [Even, Copied])
def test_every_beam_has_its_own_constraint(kind):
    model = HistoryModel(vocab_size=11, scale=1.0)

    def allowed(text):
        constraint = Even()
        for token in text:
            constraint.advance(token)
        return constraint.mask().nonzero()[:, 0].tolist()

    found = Engine(model).generate([[1]], constraint=kind, max_new_tokens=7, stop_ids=[3], beams=4, n=4)
    agrees(found, plain_search(model, [1], 7, 4, ends=[3], allowed=allowed))
    assert any(one.finish_reason == "stop" for one in found)


def test_where_few_texts_are_possible_only_those_come():
    model, how = HistoryModel(vocab_size=11), {"max_new_tokens": 2, "stop_ids": [], "beams": 6, "n": 6}
    found = Engine(model).generate([[1]], allowed_ids=[4, 8], **how)
    assert sorted(one.ids for one in found) == [[4, 4], [4, 8], [8, 4], [8, 8]]

    class Nothing(Even):
        def mask(self):
            return torch.arange(11) == 2

    with pytest.raises(LlmanacError, match="no token is left"):
        decoding = (Allowed(ids=(3,)), beam.Spec())
        Engine(model).generate([[1]], constraint=Nothing, decoding=decoding, max_new_tokens=2)


def test_a_beam_ends_where_the_context_does():
    found = Engine(HistoryModel(max_length=6)).generate([[1, 2, 3]], beams=3, n=3, stop_ids=[], max_new_tokens=50)
    assert {(len(one.ids), one.finish_reason) for one in found} == {(4, "length")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 0}, "beams: 0 is not at least 1"),
        ({"beams": 5000}, "beams: 5000 must be from 1 to 1024"),
        ({"beams": 4, "beam_groups": 3}, "beam_groups: 3 does not divide the 4 beams"),
        ({"beams": 4, "diversity": -1}, "diversity: -1.0 must be at least 0"),
        ({"beams": 4, "length_penalty": math.nan}, "length_penalty: nan is not a finite number"),
        ({"beams": 4, "length_penalty": 99}, "length_penalty: 99.0 must be from -10 to 10"),
        ({"beams": 4, "early_stopping": "soon"}, "early_stopping: .*soon"),
        ({"beams": 4, "temperature": 0.5}, "temperature: beam search draws nothing"),
        ({"beams": 4, "n": 5}, "n: 5 texts of 4 beams"),
        ({"length_penalty": 2.0}, "length_penalty: is of beam search; give beams"),
        ({"decoding": ["beam", "greedy"]}, "decoding: a beam search must be the last"),
        ({"decoding": ["bean"]}, "decoding: no decoding named 'bean'.*beam"),
        ({"decoding": ["greedy"], "beams": 2, "top_k": 3}, "decoding: give either"),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(RequestError, match=message):
        Engine(HistoryModel()).generate([[1]], **options)
