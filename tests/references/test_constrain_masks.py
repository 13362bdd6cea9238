"""Row constrain/logits: masks of regular expressions against llguidance, state by state; text of the engine."""

import json
import re

import numpy as np
import pytest
import torch
from _engine_models import ByteTokenizer, HistoryModel
from _small_models import transformer

from llmanac.core.errors import RequestError
from llmanac.generate.constrain.expressions import Grammar, Terminal
from llmanac.generate.constrain.matcher import MaskFollower, Matcher
from llmanac.generate.constrain.regex import parse_regex, search_regex
from llmanac.generate.constrain.vocabulary import vocabulary_of
from llmanac.generate.engine import Engine
from llmanac.tokenizers.load import train_tokenizer

CORPUS = [
    'the cat sat on the mat; "a name": 12.5, true, false, null [1, 2] {"x": "y"} 2024-01-31T10:22',
    "naïve façade über straße привет мир 中文 字符 日本 🙂🙃 aaa bbb abab aabb a-b_c@d.com http://x.y/z?q=1 \n\t\\",
] * 4


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(
        "bpe", CORPUS, vocab_size=600, pattern=r"\s?\S+|\s+", special_tokens=("<|end|>",), eos="<|end|>"
    )


@pytest.fixture(scope="module")
def peer(bpe):
    """Makes a function from tokens to the peer's mask (V,) for an expression."""
    llguidance = pytest.importorskip("llguidance")
    from llguidance._tokenizer import TokenizerWrapper

    words = vocabulary_of(bpe).token

    class Tokens:
        eos_token_id, bos_token_id = bpe.eos_id, None
        tokens = [word or b"\xff<%d>" % i for i, word in enumerate(words)]  # noqa: RUF012
        special_token_ids = [i for i, word in enumerate(words) if not word]  # noqa: RUF012

        def __call__(self, text):
            return bpe.encode(text if isinstance(text, str) else text.decode())

    tokenizer = llguidance.LLTokenizer(TokenizerWrapper(Tokens()))

    def start(pattern):
        # without `no_forcing` the peer allows one encoding only of text that must follow
        escaped = pattern.replace("/", r"\x2f")
        grammar = llguidance.LLMatcher.grammar_from_lark(f'%llguidance {{"no_forcing": true}}\nstart: /{escaped}/')
        made = llguidance.LLInterpreter(tokenizer, grammar, enable_backtrack=False, enable_ff_tokens=False, log_level=0)
        made.start_without_prompt()

        def mask(token):
            if token is not None:
                made.commit_token(token)
            found, _ = made.compute_mask()
            if found is None:  # nothing but the end may follow
                return np.arange(len(words)) == bpe.eos_id
            return np.frombuffer(found, np.uint8)[: len(words)] != 0

        return mask

    return start


def written(rng, depth):
    """A random expression."""
    kind = rng.integers(0, 7) if depth else rng.integers(0, 2)
    if kind == 0:
        return str(rng.choice(["a", "b", "é", "中", "🙂", r"\n", r"\\", '"', " ", "ab", "the", r"\.", "м"]))
    if kind == 1:
        return str(
            rng.choice(
                ["[a-z]", "[^a-z]", ".", "[0-9]", r"[а-я]", r'[^"\\\x00-\x1f]', "[ab é]", r"[^\n]", r"[\x80-ÿ🙂]"]
            )
        )
    if kind <= 3:
        return "".join(written(rng, depth - 1) for _ in range(rng.integers(1, 4)))
    if kind == 4:
        return "(" + "|".join(written(rng, depth - 1) for _ in range(rng.integers(2, 4))) + ")"
    return "(" + written(rng, depth - 1) + ")" + str(rng.choice(["*", "+", "?", "{2}", "{1,3}", "{2,}", "{0,40}"]))


REAL = [
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}", r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?",
    r"[a-zA-Z0-9._-]+@[a-zA-Z0-9.-]+\.[a-z]{2,}", r'"([^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"',
    r"(the|a) (cat|dog|中文)( sat| ran)*\.", r"[A-Z][a-z]+(, [A-Z][a-z]+)*", r"(?i)straße|naïve", r".{3,5}",
    r"(.*a.{4})+", r'\{"name": "[^"\\\x00-\x1f]{0,40}", "n": [0-9]{1,3}\}', r"[^ab]*(a[^b]|b[^a])*", r"(a|aa)+b?",
    r"\p{Lu}\p{Ll}+[\p{N}_]?",
]  # fmt: skip


def follower(tokenizer, pattern, ends=None):
    made = Matcher(Grammar({"s": Terminal(parse_regex(pattern))}, "s"), tokenizer)
    return MaskFollower(made, [tokenizer.eos_id] if ends is None else ends, tokenizer.vocab_size)


def compared(tokenizer, peer, pattern, rng, walks=2):
    """Random walks through both; how many masks were equal."""
    states = 0
    for _ in range(walks):
        ours, theirs, token = follower(tokenizer, pattern), peer(pattern), None
        for _ in range(14):
            mask, expected = ours.mask(), theirs(token)
            different = np.flatnonzero(mask != expected)
            assert not len(different), (pattern, ours.text, [tokenizer.token_bytes(int(i)) for i in different[:5]])
            states += 1
            going = np.flatnonzero(mask & (np.arange(len(mask)) != tokenizer.eos_id))
            if not len(going):
                break
            token = int(rng.choice(going))
            ours.advance(token)
    return states


def test_masks_equal_llguidance(bpe, peer):
    rng = np.random.default_rng(0)
    states = sum(compared(bpe, peer, pattern, rng, walks=8) for pattern in REAL)
    for _ in range(250):
        states += compared(bpe, peer, written(rng, 3), rng)
    assert states > 3000


def test_a_mask_is_the_tokens_after_which_the_text_can_go_on(bpe):
    """The definition, token by token, and the end where Python's own `re` matches."""
    pattern = r'"[^"]{0,3}"|[0-9]+(,[0-9]+)*'
    ours = follower(bpe, pattern)
    for token in bpe.encode("12,5"):
        for i, allowed in enumerate(ours.mask().tolist()):
            if i == bpe.eos_id:
                assert allowed == bool(re.fullmatch(pattern, ours.text.decode()))
                continue
            other = ours.copy()
            try:
                other.advance(i)
            except RequestError:
                assert not allowed
            else:
                assert allowed
        ours.advance(token)


SEARCHED = {
    "^a+$": ["a", "aa"], "b": ["b", "abba", "\nb\n"], "^(a|b$)": ["a", "ax", "b"], "a$|^$": ["", "xa"], "x*": ["", "q"],
    "^a|b": ["ab", "xb", "ax"], "(^|,)a(,|$)": ["a", "b,a", "a,b", "b,a,c"], "^[^\\W]$": ["a"], "^.$": ["x"],
}  # fmt: skip


@pytest.mark.parametrize("pattern", SEARCHED)
def test_a_search_matches_anywhere_between_its_anchors(pattern):
    made = Matcher(Grammar({"s": Terminal(search_regex(pattern))}, "s"), ByteTokenizer())
    for text in [
        "",
        "a",
        "aa",
        "b",
        "ab",
        "ba",
        "xb",
        "bx",
        "xa",
        "ax",
        "abba",
        "\nb\n",
        "b,a",
        "a,b",
        "b,a,c",
        "xa,",
        "q",
    ]:
        data = np.frombuffer(text.encode() + b" ", np.uint8).copy()
        state = made.follow(-1, data, 0, len(data) - 1)
        found = state >= 0 and made.accepts(state)
        assert found == bool(re.search(pattern.replace("$", r"\Z"), text)), text
    for text in SEARCHED[pattern]:
        assert re.search(pattern, text)


PYTHON = [
    r"a|b*c", r"(?:ab)+?c{2}", r"[\d\w]{1,2}\s?", r"\x41[\u00e9\n]", r"(?i:aB)c", r"[^\d]x|\Dy|\Wz", r"[]a]b",
    r"a{,2}|{a}", r"[a\-z]-?",
    r"(?P<name>a)(?s:.)b", r"\.\*\[\$", "(|a)(b|)", r"[\]\\^]^?",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PYTHON)
def test_expressions_mean_what_they_mean_in_python(pattern):
    made = Matcher(Grammar({"s": Terminal(parse_regex(pattern))}, "s"), ByteTokenizer())
    rng = np.random.default_rng(1)
    texts = ["".join(rng.choice(list("abcABxyz1 \n-é]\\^{},.*[$"), rng.integers(0, 4))) for _ in range(1500)]
    if pattern.endswith("^?"):
        pattern = pattern.removesuffix("^?")
    for text in [*texts, "abc", "ababcc", "aBc", "ABc", "A\n", "Aé", "{a}", "a{,2}", ".*[$", "a\nb"]:
        data = np.frombuffer(text.encode() + b" ", np.uint8).copy()
        state = made.follow(-1, data, 0, len(data) - 1)
        assert (state >= 0 and made.accepts(state)) == bool(re.fullmatch(pattern, text)), text


REFUSED = {
    r"(a)\1": "reference", "(?=a)": "look-ahead", "(?<!a)b": "look-behind", r"\bx": r"\\b", "a++": "possessive",
    "[z-a]": "order", "(": "missing", ")": "without", "[": "missing", r"\p{Greek}": "Greek", "a{3,1}": "order",
    "(?m)x": "flag 'm'", "*a": "repeated", "(^a)*": "inside of a repeat", "a{1000000}": "more than", r"\q": r"\\q",
    "(" * 200 + ")" * 200: "nested", "a" * 70_000: "make it shorter", "[a--b]": "between sets", r"\xZZ": "wrong digits",
    r"\k<a>": "reference", "(?>a)": "atomic", "((a{900}){900}){900}": "too large",
}  # fmt: skip


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_is_not_supported_is_refused_by_name(pattern):
    with pytest.raises(RequestError, match=REFUSED[pattern]):
        follower(ByteTokenizer(), pattern, [256])


# ---------------------------------------------------------------------------------------------- the engine
PATTERNS = [r"(ab|cd)+x", r'\{"name": "[a-z]{1,5}", "n": [0-9]{1,3}\}', r"[а-я]{3}!", r"[a-z]*"]
PROMPTS = ["hello", "x", "hello again"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_generated_text_matches_alone_in_a_batch_and_with_drafts(temperature):
    model = HistoryModel(script=lambda ids: 97 + len(ids) % 4 if len(ids) % 3 else None)
    engine, fast = Engine(model, ByteTokenizer()), Engine(model, ByteTokenizer(), drafter="prompt-lookup", rows=2)
    fast.speculation.always = True
    for pattern in PATTERNS:
        asked = {"regex": pattern, "temperature": temperature, "max_new_tokens": 60, "n": 2}
        done = engine.generate(PROMPTS, **asked)
        alone = [found for prompt in PROMPTS for found in engine.generate(prompt, **asked)]
        drafted = fast.generate(PROMPTS, **asked)
        for one, other, third in zip(done, alone, drafted, strict=True):
            assert one.ids == other.ids == third.ids and one.text == other.text == third.text
            if one.finish_reason == "stop":
                assert re.fullmatch(pattern, one.text), one.text
    assert fast.speculation.proposed > fast.speculation.accepted > 0


def test_what_must_follow_costs_no_call_of_the_model(bpe):
    model = HistoryModel(vocab_size=bpe.vocab_size)
    done = Engine(model, bpe).generate("x", regex=r'\{"name": "[a-z]", "true": (true|false)\}', max_new_tokens=60)[0]
    assert re.fullmatch(r'\{"name": "[a-z]", "true": (true|false)\}', done.text) and done.finish_reason == "stop"
    assert model.calls < len(done.ids) - 3
    plain = bpe.encode('{"name": "')
    assert done.ids[1 : len(plain) - 1] == plain[1:-1] or done.ids[:2] != plain[:2]


def test_options_of_the_engine():
    engine = Engine(HistoryModel(), ByteTokenizer())
    found = engine.generate("x", grammar='start: "a" start "b" | "c"', max_new_tokens=80)[0]
    assert re.fullmatch("a*cb*", found.text) and found.text.count("a") == found.text.count("b")
    for wrong, why in [
        ({"regex": "a", "grammar": 'start: "a"'}, "only one"), ({"regex": 3}, "regex: 3 is not a text"),
        ({"regex": "(?=a)"}, "look-ahead"), ({"schema": 3}, "neither a JSON Schema"),
        ({"regex": "a", "allowed_ids": [1]}, "allowed_ids"),
    ]:  # fmt: skip
        with pytest.raises(RequestError, match=why):
            engine.generate("x", **wrong)
    with pytest.raises(RequestError, match="no tokenizer"):
        Engine(HistoryModel()).generate([[1]], regex="a")
    with pytest.raises(RequestError, match="no end-of-text"):
        engine.generate("x", regex="a", stop_ids=[])
    pieces = list(engine.stream("x", regex="abc[de]", max_new_tokens=9))
    assert re.fullmatch("abc[de]", "".join(piece.text for piece in pieces))


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "n": {"enum": [1, 22]}, "next": {"$ref": "#"}},
    "required": ["name", "n"],
    "additionalProperties": {"type": "boolean"},
}


class Model:
    """What a Pydantic model offers."""

    def __init__(self, text):
        self.value = json.loads(text)

    @classmethod
    def model_json_schema(cls):
        return SCHEMA

    @classmethod
    def model_validate_json(cls, text):
        return cls(text)


def test_a_schema_gives_the_object_beside_the_text():
    jsonschema = pytest.importorskip("jsonschema")
    engine, complete = Engine(HistoryModel(), ByteTokenizer()), 0
    for given in (SCHEMA, Model):
        for done in engine.generate(PROMPTS, schema=given, temperature=1.0, n=8, max_new_tokens=150):
            if done.finish_reason == "length":
                assert done.parsed is None
                continue
            value = json.loads(done.text, object_pairs_hook=distinct)
            jsonschema.validate(value, SCHEMA)
            assert value == (done.parsed if given is SCHEMA else done.parsed.value)
            complete += 1
    assert complete > 10
    assert engine.generate("x", regex="a")[0].parsed is None
    with pytest.raises(RequestError, match="schema: no value"):
        engine.generate("x", schema={"type": "string", "minLength": 3, "maxLength": 2})


def distinct(pairs):
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_a_text_without_a_continuation_ends_alone():
    """A constraint that allows nothing more fails its own request; the other rows of the batch go on."""
    from llmanac.core.errors import RequestError
    from llmanac.generate.engine import completions

    class Dead:
        def __init__(self):
            self.left = 2

        def mask(self):
            if not self.left:
                raise RequestError("constraint: no token may follow")
            return torch.ones(engine.model.vocab_size, dtype=torch.bool)

        def forced(self):
            return None

        def advance(self, token):
            self.left -= 1

    engine = Engine(transformer(vocab_size=40, dim=16, layers=1, dtype=torch.float32), None)
    scheduler = engine.scheduler()
    dead, alive = (engine.request([1, 2], max_new_tokens=6, stop_ids=(), **more) for more in ({"constraint": Dead}, {}))
    for request in (dead, alive):
        scheduler.submit(request)
    while scheduler.busy:
        scheduler.step()
    assert completions(alive)[0].ids == engine.generate([1, 2], max_new_tokens=6, stop_ids=())[0].ids
    with pytest.raises(RequestError, match="no token may follow"):
        completions(dead)
    with pytest.raises(RequestError, match="no token may follow"):
        list(engine.stream([1, 2], constraint=Dead, stop_ids=()))
