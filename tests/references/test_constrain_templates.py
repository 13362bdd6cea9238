"""Row constrain/template: fixed text costs no step, slots obey their grammars, tokens may cross the seams."""

import json
import re

import pytest
from _engine_models import ByteTokenizer, HistoryModel
from jsonschema import Draft202012Validator

from llmanac.core.errors import RequestError
from llmanac.generate.constrain.template import Slot, Template
from llmanac.generate.engine import Engine
from llmanac.tokenizers.load import train_tokenizer

RECORD = {"type": "object", "properties": {"n": {"enum": [1, 22]}}, "required": ["n"], "additionalProperties": False}
TEXT = "Name: {name:/[A-Z][a-z]{1,4}/} {{Age}}: {age:/[0-9]{2}/} is {mood:['glad', 'sad']}"
TEMPLATE = Template(TEXT + "\nNote: {note:text, max_tokens=5}\n{rec}.", rec=Slot(schema=RECORD))


@pytest.fixture(scope="module")
def bpe():
    corpus = ['{"name": "the cat", "kind": "house"} say "the cat" "house" Names: name names Name '] * 4
    return train_tokenizer(
        "bpe", corpus, vocab_size=330, pattern=r" ?\S+|\s+", special_tokens=("<|end|>",), eos="<|end|>"
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_slots_obey_their_grammars_alone_in_a_batch_and_with_drafts(temperature):
    model = HistoryModel(script=lambda ids: 97 + len(ids) % 4 if len(ids) % 3 else None)
    engine, fast = Engine(model, ByteTokenizer()), Engine(model, ByteTokenizer(), drafter="prompt-lookup", rows=2)
    fast.speculation.always = True
    asked = {"template": TEMPLATE, "temperature": temperature, "max_new_tokens": 100, "n": 2}
    prompts = ["x", "hello", "a b"]
    done = engine.generate(prompts, **asked)
    alone = [found for prompt in prompts for found in engine.generate(prompt, **asked)]
    for one, other, third in zip(done, alone, fast.generate(prompts, **asked), strict=True):
        assert one.ids == other.ids == third.ids and one.text == third.text and one.parsed == third.parsed
        pattern = r'Name: ([A-Z][a-z]{1,4}) \{Age\}: ([0-9]{2}) is (glad|sad)\nNote: ([^\n]*)\n(\{"n": (?:1|22)\})\.'
        *texts, record = re.fullmatch(pattern, one.text).groups()
        assert one.finish_reason == "stop"
        assert one.parsed == {
            **dict(zip(["name", "age", "mood", "note"], texts, strict=True)),
            "rec": json.loads(record),
        }
        assert len(one.parsed["note"].encode()) <= 5 + 3  # a token is a byte; a character is not cut


def test_fixed_text_is_never_generated_token_by_token(bpe):
    """A call of the model for the prompt, one for each choice, and no other however long the fixed text is."""
    for fixed in ("; ", "; the cat is in the house and so on, " * 8):
        model = HistoryModel(vocab_size=bpe.vocab_size, max_length=2000)
        template = Template([fixed, Slot("a", regex="[0-9]"), fixed, Slot("b", regex="[0-9]{2}"), fixed])
        found = Engine(model, bpe).generate("x", template=template, max_new_tokens=900)[0]
        assert found.text == fixed + found.parsed["a"] + fixed + found.parsed["b"] + fixed
        assert model.calls == 1 + 3 and found.finish_reason == "stop"
        chosen = [token for token in found.token_logprobs if token.margin > 0]
        assert len(chosen) == 1 + 3  # the first token is chosen of one
        assert len(found.ids) > (5 if fixed == "; " else 200)


def test_a_token_may_cross_from_fixed_text_into_a_slot(bpe):
    """The fixed text ends in `"`, and `"the` is a token: the model may choose it, as in text that it has read."""
    prompt = bpe.encode("x")
    (cross,) = [i for i in range(bpe.vocab_size) if bpe.token_bytes(i) == b' "the']
    plain = bpe.encode(' "')
    assert bpe.encode('say "the') == [*bpe.encode("say"), cross]  # what the model has read
    template = Template(['say "', Slot("it", regex="[a-z]{3} [a-z]{3}"), '"'])
    start = len(prompt) + len(bpe.encode("say"))
    healed = Engine(HistoryModel(vocab_size=bpe.vocab_size, script={start: cross}), bpe)
    found = healed.generate(prompt, template=template, max_new_tokens=30)[0]
    assert cross in found.ids and found.text.startswith('say "the ') and found.parsed["it"].startswith("the ")
    digits = Template(['say "', Slot("it", regex="[0-9]{3}"), '"'])  # no token goes on into digits: nothing to heal
    found = healed.generate(prompt, template=digits, max_new_tokens=30)[0]
    assert found.ids[: len(plain) + 1] == [*bpe.encode("say"), *plain]
    assert re.fullmatch('say "[0-9]{3}"', found.text)


def test_equals_calls_of_the_engine_one_after_the_other():
    """Greedy, with a token a byte, where nothing can be healed."""
    engine = Engine(HistoryModel(script=lambda ids: 97 + sum(ids) % 26), ByteTokenizer())
    template = Template(
        "A {a:/[a-z]{3}/}, B {b:['yes', 'not']}; C {c:text, stop='\\n', max_tokens=4}\nD {d:/[0-9]{2}/}."
    )
    found = engine.generate("x", template=template, max_new_tokens=100)[0]
    text, values = "A ", {}
    steps = [("a", "[a-z]{3}", ", B "), ("b", "yes|not", "; C "), ("c", r"[^\n]*\n", "\nD "), ("d", "[0-9]{2}", ".")]
    for name, regex, after in steps:
        asked = {"regex": regex, "max_new_tokens": 4 if name == "c" else 9}
        values[name] = engine.generate(list(b"x" + text.encode()), **asked)[0].text.removesuffix("\n")
        text += values[name] + after
    assert found.text == text and found.parsed == values
    free = engine.generate("x", max_new_tokens=len(found.ids))[0]
    assert free.text != found.text


AMBIGUOUS = [
    (["<", Slot("a", regex="[a-z]*"), Slot("b", regex="[a-z]?"), ">"], "<abc>", {"a": "abc", "b": ""}),
    (["", Slot("a", regex="a*"), "ab", Slot("b")], "aaabab", {"a": "aa", "b": "ab"}),
    ([Slot("a", stop="aa"), "aab"], "xaaab", None),  # the first `aa` ends the slot
    ([Slot("a", stop="aa"), "b"], "xaab", {"a": "x"}),
    ([Slot("a"), "aab"], "xaaab", {"a": "xa"}),  # the end is all of the fixed text
    ([Slot("a", stop="|")], "it", {"a": "it"}),
    ([Slot("a", stop="|")], "it|", {"a": "it"}),
    ([Slot("a", stop="|")], "it|s", None),
    (["é", Slot("a", choices=("x", "xé")), Slot("b", stop="\n"), "\n"], "éxéß\n", {"a": "xé", "b": "ß"}),
    ([Slot("a", schema={"type": "integer"}), Slot("b", regex="[0-9]!")], "123!", {"a": 12, "b": "3!"}),
]


@pytest.mark.parametrize(("parts", "text", "values"), AMBIGUOUS)
def test_each_slot_takes_what_it_can_from_left_to_right(parts, text, values):
    template = Template(parts)
    if values is None:
        with pytest.raises(ValueError, match="not one of the template"):
            template.slots(text)
        return
    assert template.slots(text) == values


def test_a_template_has_one_form_where_a_schema_has_many():
    """Low flexibility: of six texts of one schema a template of the same fields can be one."""
    texts = ['{"a": 1, "b": 2}', '{"b": 2, "a": 1}', '{"a": 1}', "{}", '{"a":1,"b":2}', '{"a": 10, "b": 2}']
    schema = {"type": "object", "properties": {name: {"type": "integer"} for name in "ab"}}
    template = Template('{{"a": {a:/[0-9]/}, "b": {b:/[0-9]/}}}')
    assert all(Draft202012Validator(schema).is_valid(json.loads(text)) for text in texts)
    assert template.slots(texts[0]) == {"a": "1", "b": "2"}
    for text in texts[1:]:
        with pytest.raises(ValueError, match="not one of the template"):
            template.slots(text)


def test_a_slot_of_text_ends_after_its_tokens():
    """Also where its text ends in the beginning of its stop, and where the tokens are the last ones."""
    model = HistoryModel(script=dict.fromkeys(range(60), ord("-")))
    engine = Engine(model, ByteTokenizer())
    template = Template("{a:text, stop='--->', max_tokens=6}B{b:text, max_tokens=3}")
    found = engine.generate("x", template=template, max_new_tokens=50)[0]
    assert found.text == "------>B---" and found.parsed == {"a": "---", "b": "---"}
    assert found.finish_reason == "stop"
    cut = engine.generate("x", template=template, max_new_tokens=5)[0]
    assert cut.finish_reason == "length" and cut.parsed is None


def test_going_back_and_copies():
    make = TEMPLATE.constraint(ByteTokenizer(), [256], 260)
    one, straight = make(), make()
    for byte in b"Name: Xy {Age}: 12 is sad\nNote: abc":
        one.advance(byte)
        straight.advance(byte)
    other = one.copy()
    for byte in b"de":
        one.advance(byte)
    assert one.forced() == ord("\n") and other.forced() is None  # five tokens of the note
    one.rewind(2)
    assert one.forced() is None and (one.mask() == straight.mask()).all() and (other.mask() == straight.mask()).all()
    one.rewind(len(b"Xy {Age}: 12 is sad\nNote: abc"))
    assert one.mask().nonzero()[0].tolist() == list(range(ord("A"), ord("Z") + 1))
    with pytest.raises(ValueError, match="count"):
        one.rewind(99)


WRONG = {
    "{a:/x}": "no closing '/'", "{a}": "slot 'a': has no constraint", "{": "is no slot", "a } b": "is no slot",
    "{a:/x/": r"closing '}' is missing", "{a:['x', 3]}": "choices are texts", "{a:[}": "list of texts", "": "1 to",
    "{a:/x/}{a:/y/}": "two slots", "{a:text}{b:/x/}": "nothing ends slot 'a' before 'b'", "{a:/(/}": "slot 'a': regex",
    "{a:text, size=3}": "none of stop", "{a:text, max_tokens=0}": "not at least 1", "{a:number}": "expected /regex/",
    "{a:text, stop=''}": "1 to 200 characters", "{a:text, max_tokens=many}": "none of stop",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_what_is_not_well_formed_is_refused(text):
    with pytest.raises(RequestError, match=WRONG[text]):
        Template(text)


def test_refused_options():
    engine = Engine(HistoryModel(), ByteTokenizer())
    for options, why in [
        ({"template": 3}, "neither a Template"), ({"template": {}}, "neither a Template"),
        ({"template": "a", "regex": "b"}, "only one"),
        ({"template": "{a:/[^\\x00-\\U0010ffff]/}"}, "matches no text"),
    ]:  # fmt: skip
        with pytest.raises(RequestError, match=why):
            engine.generate("x", **options)
    with pytest.raises(RequestError, match="no slot 'b'"):
        Template("{a}", a=Slot(regex="x"), b=Slot(regex="y"))
    with pytest.raises(RequestError, match="give one of them"):
        Template([Slot("a", regex="x", choices=("y",))])
    with pytest.raises(RequestError, match="for free text"):
        Template([Slot("a", regex="x", stop="y")])
    with pytest.raises(RequestError, match="slot 'a': no value"):
        Template([Slot("a", schema={"type": "string", "minLength": 3, "maxLength": 2})])
    with pytest.raises(RequestError, match="no tokenizer"):
        Engine(HistoryModel()).generate([1], template="a")
