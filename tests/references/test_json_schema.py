"""Grammars of JSON Schemas against the JSON-Schema-Test-Suite, the validator of `jsonschema`, and llguidance."""

import json
import random
from collections import Counter
from datetime import date, datetime
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

import jsonschema
import llguidance
import pytest
from _json_texts import Cut, Reader, drawn, texts
from _schemas_at_random import document, value

from llmanac.core.errors import LlmanacError, RequestError, SpecError
from llmanac.generate.constrain._json_document import DRAFTS
from llmanac.generate.constrain.json_schema import grammar

LAYOUTS = {"spaced": (", ", ": "), "compact": (",", ":")}
DRAFT_7 = "http://json-schema.org/draft-07/schema#"
NAMED = {"draft4": 4, "draft6": 6, "draft7": 7, "draft2019-09": 2019, "draft2020-12": 2020}
# what the suite has as valid and the page on constraints states as left out
ANNOTATIONS = {"idn-email", "idn-hostname", "regex"}  # formats of a draft that are not enforced
STATED = ("is only an annotation by default", "validation of A-label (punycode) host names", "valid punycoded IDN")


def suite(folder, *drafts):
    """`(file, schema, group)` of the suite's groups of tests; later drafts than draft 4 take 1.0 for an integer."""
    for draft in drafts or ("draft2020-12", "draft7"):
        uri = next(uri for uri, number in DRAFTS.items() if number == NAMED[draft])
        for path in sorted((folder / "json_schema_test_suite" / draft).rglob("*.json")):
            for group in json.loads(path.read_text()) if path.stem != "zeroTerminatedFloats" else ():
                schema = group["schema"]
                if draft != "draft2020-12" and isinstance(schema, dict):
                    schema = {"$schema": uri, **schema}
                yield f"{draft}/{path.stem}", schema, group


def writable(data):
    try:
        return json.dumps(data, ensure_ascii=False).encode() is not None
    except UnicodeError:  # a lone surrogate
        return False


def compare(groups):
    """No invalid value of the suite is accepted and no valid one refused, but for what is stated; the counts."""
    counts = Counter()
    for file, schema, group in groups:
        try:
            reads = Reader(grammar(schema))
        except SpecError as error:
            counts["refused"] += 1
            assert str(error).startswith(("schema#/", "schema: ", "schema#: "))
            continue
        counts["schemas"] += 1
        for test in filter(lambda test: writable(test["data"]), group["tests"]):
            found = any(reads(text) for text in texts(test["data"], limit=24 if test["valid"] else 60))
            where = (file, group["description"], test["description"], schema)
            if test["valid"]:
                stated = any(part in f"{group['description']} {test['description']}" for part in STATED)
                assert found or stated, where
                counts["valid, refused as stated"] += not found
            else:
                compact = any(reads(text) for text in texts(test["data"], LAYOUTS["compact"]))
                annotation = isinstance(schema, dict) and schema.get("format") in ANNOTATIONS
                assert annotation or not (found or compact), where
                counts["invalid, accepted as stated"] += found
            counts["valid" if test["valid"] else "invalid"] += 1
    return counts


def test_some_of_the_suite(shared_data):
    assert compare(list(suite(shared_data))[::8])["valid"] > 200


@pytest.mark.slow
def test_suite(shared_data, capsys):
    counts = compare(suite(shared_data))
    for _, schema, _ in suite(shared_data):
        try:
            made = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
            counts["schemas of llguidance"] += not llguidance.LLMatcher.validate_grammar(made)
        except ValueError:  # numbers of more than 64 bits
            pass
    with capsys.disabled():
        print(dict(counts))
    assert counts["schemas"] > 690 > 660 > counts["schemas of llguidance"] > 380
    assert counts["valid"] > 1800
    assert counts["invalid"] > 1400


@pytest.mark.slow
@pytest.mark.parametrize("draft", ["draft4", "draft6", "draft2019-09"])
def test_suite_of_older_drafts(draft, shared_data):
    if not (shared_data / "json_schema_test_suite" / draft).is_dir():
        pytest.skip(f"the data have no {draft}")
    assert compare(suite(shared_data, draft))["valid"] > 400


def agrees(seed, depth, values, samples):
    """Values that satisfy a random schema are exactly those that its grammar has; how many were compared."""
    schema, rng = document(seed, depth), random.Random(seed)
    valid = jsonschema.Draft202012Validator(schema).is_valid
    some = [value(rng) for _ in range(values)]
    try:
        made = grammar(schema)
        reads = Reader(made)
    except (SpecError, RequestError) as error:
        if "no value satisfies" in str(error) or "matches no text" in str(error):
            assert not any(map(valid, some)), schema
        return 0
    for data in some:
        found = any(reads(text) for text in texts(data, limit=40))
        assert found == valid(data), (schema, data)
    for _ in range(samples):
        try:
            text = drawn(made, rng, 300)
        except Cut:
            continue
        assert reads(text), (schema, text)
        data = json.loads(text, object_pairs_hook=distinct)
        if exact(data):
            assert valid(data), (schema, text)
    return len(some)


def distinct(pairs):
    assert len({k for k, _ in pairs}) == len(pairs)
    return dict(pairs)


def exact(data):
    """Whether the validator can be asked: it divides as float64, and Python's `$` also matches before a new line."""
    if isinstance(data, dict):
        return not any("\n" in k for k in data) and all(map(exact, data.values()))
    if isinstance(data, list):
        return all(map(exact, data))
    return "\n" not in data if isinstance(data, str) else not isinstance(data, int | float) or abs(data) < 2**50


@pytest.mark.parametrize("block", range(4))
def test_random_schemas(block):
    assert sum(agrees(seed, 2, 10, 5) for seed in range(30 * block, 30 * block + 30)) > 100


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_more_random_schemas(block):
    assert sum(agrees(1000 + seed, 3, 30, 20) for seed in range(200 * block, 200 * block + 200)) > 2000


def instant(text):
    """A date and time; Python has no leap second."""
    return datetime.fromisoformat(text.upper().replace(":60", ":59"))


READERS = {
    "date": date.fromisoformat,
    "time": lambda text: instant(f"2000-01-01T{text}"),
    "date-time": instant,
    "ipv4": IPv4Address,
    "ipv6": IPv6Address,
    "uuid": UUID,
    "email": lambda text: text.index("@"),
}


@pytest.mark.parametrize("name", READERS)
def test_drawn_formats_are_valid(name):
    made, rng = grammar({"type": "string", "format": name}), random.Random(0)
    reads = Reader(made)
    for _ in range(60):
        text = drawn(made, rng)
        assert reads(text)
        READERS[name](json.loads(text))


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"format": "email", "maxLength": 254}, "a" * 242 + "@example.com", "a" * 243 + "@example.com"),
        ({"format": "uri", "minLength": 9}, "http://a.", "http://a"),
        ({"format": "hostname", "maxLength": 20}, "a" * 16 + ".com", "a" * 17 + ".com"),
        ({"format": "date", "pattern": "^2024"}, "2024-02-29", "2023-02-28"),
        ({"pattern": "^\\S.*\\S$", "minLength": 3, "maxLength": 2000}, "a" * 2000, "a" * 2001),
        ({"not": {"format": "ipv4"}, "maxLength": 7}, "1.2.3.", "1.2.3.4"),
        ({"oneOf": [{"format": "date"}, {"minLength": 10}]}, "2023-02-29", "2024-02-29"),
        ({"maxLength": 65_535}, "é" * 500, 1),
    ],
)
def test_lengths_beside_formats_and_patterns(schema, valid, invalid):
    reads = Reader(grammar({"type": "string", **schema}))
    assert reads(json.dumps(valid, ensure_ascii=False))
    assert not reads(json.dumps(invalid))


NUMBERS = [
    {"minimum": -5, "maximum": 12.75},
    {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"exclusiveMinimum": -1000, "maximum": -0.5},
    {"type": "integer", "minimum": 3, "exclusiveMaximum": 1000},
    {"type": "integer", "minimum": -17, "maximum": 250, "multipleOf": 7},
    {"multipleOf": 0.25, "maximum": 100},
    {"not": {"type": "integer"}, "minimum": 0},
    {"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}]},
    {"enum": [1.5, 2, -3e2]},
    {"not": {"enum": [1.5, 2, -3e2]}},
]


@pytest.mark.parametrize("schema", NUMBERS, ids=str)
def test_numbers(schema):
    rng = random.Random(0)
    reads = Reader(grammar({"type": "number", **schema}))
    valid = jsonschema.Draft202012Validator({"type": "number", **schema}).is_valid
    for _ in range(300):
        places = rng.choice([0, 0, 1, 2, 3])
        data = round(rng.choice([1.5, -300, rng.uniform(-20, 20), rng.uniform(-1200, 1200)]), places)
        data = int(data) if not places else data
        assert reads(json.dumps(data)) == valid(data) or data == int(data), data
        if data == int(data):
            assert reads(str(int(data))) == valid(data), data


@pytest.mark.parametrize("text", ["01", "1.", ".5", "+1", "1e", "0x1", "NaN", "Infinity", "-", "1e309", "00.5"])
def test_no_number(text):
    assert not Reader(grammar({"type": "number"}))(text)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-0.5",
        "10.50",
        "1e5",
        "1.5E-7",
        "1.7976931348623157e+308",
        "5e-307",
        "123456789012345678901",
        "-0",
        "-0.0",
        "12.5e3",
    ],
)
def test_any_number(text):
    assert Reader(grammar({"type": "number"}))(text)


def test_float64_keeps_to_excluded_limits():
    reads = Reader(grammar({"type": "number", "exclusiveMaximum": 3}))
    assert reads("2.9999999999999996")
    assert not reads("2.99999999999999999")  # which is 3.0 for a reader
    assert not reads("-0")


@pytest.mark.parametrize("bound", [2**53 + 1, -(2**53) - 1, 12345678901234567890, 2**64 - 1, -(2**63) + 1])
@pytest.mark.parametrize("limits", [("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")])
def test_limits_that_are_no_float64_hold_for_fractions_too(bound, limits):
    schema = {"type": "number", limits[0]: bound - 1, limits[1]: bound + 1}
    reads, valid = Reader(grammar(schema)), jsonschema.Draft202012Validator(schema)
    assert reads(str(bound))
    for near in range(bound - 3, bound + 4):
        assert reads(str(near)) == valid.is_valid(near)
        for text in (f"{near}.0", f"{near}.5", f"{near}.000"):
            assert not reads(text) or valid.is_valid(json.loads(text)), text


def test_unique_items_leave_no_dead_end():
    reads = Reader(grammar({"prefixItems": [{"const": "a"}], "items": {"enum": ["a", "b", 1]}, "uniqueItems": True}))
    assert reads('["a", "b", 1]')
    assert not reads('["a", "b", 1, "a"]')
    assert not reads.alive('["a", "b", 1, ')


def test_long_words():
    word = "a" * 1500
    assert Reader(grammar({"enum": [word, "b"], "pattern": "^(a|aa)*$"}))(json.dumps(word))


OLD = [
    ("http://json-schema.org/draft-04/schema#", {"minimum": 2, "exclusiveMinimum": True}, "3", "2"),
    ("http://json-schema.org/draft-04/schema#", {"id": "#a", "minimum": 1, "const": 5}, "3", "0"),
    ("http://json-schema.org/draft-06/schema#", {"exclusiveMinimum": 2, "if": False}, "3", "2"),
    (DRAFT_7, {"definitions": {"a": {"maximum": 3}}, "$ref": "#/definitions/a", "maximum": 1}, "3", "4"),
    (DRAFT_7, {"items": [{"maximum": 3}], "additionalItems": False, "minContains": 2}, "[3]", "[3, 1]"),
    ("https://json-schema.org/draft/2019-09/schema", {"items": {"$recursiveRef": "#"}, "type": "array"}, "[[]]", "[1]"),
]


@pytest.mark.parametrize(("draft", "schema", "valid", "invalid"), OLD, ids=str)
def test_older_drafts(draft, schema, valid, invalid):
    reads = Reader(grammar({"$schema": draft, **schema}))
    assert (reads(valid), reads(invalid)) == (True, False)


MEMBERS = [{"unit": "C", "at": [1, {"b": None}]}, [[True], 2.5], [], {}, {"a": {"b": [2]}}, 0, "x"]
OTHERS = [{"unit": 1, "at": [1, {"b": None}]}, [[1], 2.5], [0], {"a": 1}, {"a": {"b": ["x"]}}, {"a": {"b": 2}}, "y"]


@pytest.mark.parametrize("draft", DRAFTS)
def test_values_in_values_of_an_enum(draft):
    schema = {"$schema": draft, "enum": MEMBERS}
    reads = Reader(grammar(schema))
    without = Reader(grammar({"$schema": draft, "type": ["object", "array"], "not": {"enum": MEMBERS}}))
    valid = jsonschema.validators.validator_for(schema)(schema).is_valid
    for place, data in enumerate(MEMBERS + OTHERS):
        assert reads(json.dumps(data)) == valid(data) == (place < len(MEMBERS)), data
        assert without(json.dumps(data)) == (isinstance(data, dict | list) and not valid(data)), data


ORDER = {
    "type": "object",
    "properties": {"b": {"type": "integer"}, "a": {"type": "string"}},
    "required": ["b", "z"],
    "additionalProperties": {"type": "boolean"},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"b": 1, "a": "x", "z": true, "y": false}', True),
        ('{"b": 1, "z": true}', True),
        ('{"a": "x", "b": 1, "z": true}', False),  # order
        ('{"b": 1, "z": true, "y": false, "y": true}', False),  # twice
        ('{"b": 1, "z": true, "b": 2}', False),
        ('{"b": 1, "z": true, "\\u0061": true}', False),  # a needless escape would hide a name
        ('{"b": 1, "z": 1}', False),
        ('{"b": 1}', False),
    ],
)
def test_properties(text, expected):
    assert Reader(grammar(ORDER))(text) is expected


def test_whitespace():
    data = {"b": 1, "z": True, "k": False}
    spaced, compact, free = (Reader(grammar(ORDER, whitespace=w)) for w in ("spaced", "compact", "any"))
    assert (spaced(json.dumps(data)), compact(json.dumps(data)), free(json.dumps(data))) == (True, False, True)
    tight = json.dumps(data, separators=(",", ":"))
    assert (spaced(tight), compact(tight), free(tight)) == (False, True, True)
    assert free(json.dumps(data, indent=2))
    assert free("{\n}") is False
    assert not free(" " + tight)
    assert Reader(grammar({"type": "array"}, whitespace="any"))("[ \n]")


STRINGS = ["", "a", '"', "\\", "/", "\n\t\b\f\r", "\x00\x1f", "\x7f", "é😀\u2028", "\ufeff"]


@pytest.mark.parametrize("data", STRINGS)
def test_strings(data):
    text = json.dumps(data, ensure_ascii=False)
    assert Reader(grammar({"type": "string"}))(text)
    assert Reader(grammar({"minLength": len(data), "maxLength": len(data)}))(text)
    assert Reader(grammar({"const": data}))(text)
    assert not Reader(grammar({"not": {"const": data}}))(text)
    assert not Reader(grammar({"type": "string", "minLength": len(data) + 1}))(text)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"a": {"type": "strin"}}}, "schema#/properties/a/type: 'strin' is no type; did you mean 'str"),
        ({"items": {"minlength": 3}}, "schema#/items/minlength: unknown keyword; did you mean 'minLength'?"),
        ({"$ref": "http://a.b/c"}, "schema#/$ref: 'http://a.b/c' is outside of the document"),
        ({"$ref": "#/$defs/a"}, "schema#/$ref: the document has nothing at '/$defs/a'"),
        ({"$ref": "#"}, "schema#: a reference leads back to its own schema"),
        ({"a/b": 1, "properties": {"x~/": {"format": 3}}}, "schema#/properties/x~0~1/format: 3 is no string"),
        ({"properties": {"a": {"items": {"$ref": "b.json"}}}}, "schema#/properties/a/items/$ref: 'b.json' is outside"),
        ({"pattern": "(?=a)"}, "schema#/pattern: the pattern '(?=a)' is not supported"),
        ({"pattern": "("}, "schema#/pattern: the pattern '('"),
        ({"items": {"uniqueItems": True}}, "schema#/items/uniqueItems: 'uniqueItems' is supported where no item"),
        ({"$schema": "http://x.y/z"}, "schema#/$schema: 'http://x.y/z' is not supported"),
        ({"multipleOf": 0}, "schema#/multipleOf: 0 is not greater than 0"),
        ({"minimum": "1"}, "schema#/minimum: '1' is not a number"),
        ({"minimum": float("nan")}, "schema#/minimum: nan is not a finite number"),
        ({"minLength": -1}, "schema#/minLength: -1 is no whole number"),
        ({"required": "a"}, "schema#/required: 'a' is no list of names"),
        ({"properties": []}, "schema#/properties: [] is no object"),
        ({"anyOf": {}}, "schema#/anyOf: {} is no list of schemas"),
        ({"items": 1}, "schema#/items: 1 is no schema"),
        ({"allOf": [True, 1]}, "schema#/allOf/1: 1 is no schema"),
        ({"type": "string", "enum": [1]}, "schema: no value satisfies it"),
        (False, "schema: no value satisfies it"),
        ({"multipleOf": 0.0123456789, "type": "number"}, "schema#: its numbers need an automaton of more than"),
        (3, "schema: 3 is neither a JSON Schema"),
        ({"properties": {1: {}}}, "schema: the key 1 is no string"),
        ({"items": {"const": "a\ud800"}}, "schema#/items/const: 'a\\ud800' has half of a surrogate pair"),
        ({"enum": [{"\udfff": 1}]}, "schema#/enum/0: '\\udfff' has half of a surrogate pair"),
        ({"minItems": 99_999}, "schema#/minItems: 99999 is more than 8,192; give a smaller one"),
    ],
    ids=str,
)  # fmt: skip
def test_refused(schema, message):
    with pytest.raises(SpecError) as error:
        grammar(schema)
    assert str(error.value).startswith(message)


NAMES = ["int32", "double", "password", "phone", "datetime", "credit-card", "ipv4-address", "color", "x", "", "DATE"]


@pytest.mark.parametrize("name", [*NAMES, *sorted(ANNOTATIONS)])
@pytest.mark.parametrize("draft", DRAFTS)
def test_other_formats_are_annotations(draft, name):
    schema = {"$schema": draft, "type": ["string", "integer"], "maxLength": 5, "format": name}
    reads = Reader(grammar(schema))
    assert [reads(text) for text in ('"a?"', "7", '"abcdef"', "true")] == [True, True, False, False]


OUTSIDE = {"$ref": "http://a.b/c.json"}
UNREACHED = [
    {"type": "string", "properties": {"a": OUTSIDE}, "items": OUTSIDE},
    {"type": "string", "$defs": {"a": OUTSIDE, "b": {"allOf": [OUTSIDE]}}},
    {"type": "string", "definitions": {"a": {"properties": {"b": OUTSIDE}}}},
    {"type": "string", "then": OUTSIDE, "minContains": 1},
    {"type": "string", "examples": [OUTSIDE], "default": OUTSIDE, "x-more": OUTSIDE},
]


@pytest.mark.parametrize("schema", UNREACHED, ids=str)
def test_a_reference_to_outside_that_is_not_reached(schema):
    reads = Reader(grammar(schema))
    assert (reads('"a"'), reads("1")) == (True, False)


MANY = 4_294_967_295


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"type": "string", "maxLength": MANY}, '"ab"', "[]"),
        ({"type": "string", "minLength": 2, "maxLength": MANY, "pattern": "^a"}, '"ab"', '"a"'),
        ({"type": "string", "maxLength": MANY, "format": "email"}, '"a@b.c"', '"a"'),
        ({"type": "array", "maxItems": MANY, "prefixItems": [{"type": "null"}]}, "[null, 1]", "[1]"),
        ({"type": "array", "maxItems": MANY, "items": {"type": "integer"}, "uniqueItems": True}, "[1, 2]", "[1, 1]"),
        ({"type": "object", "maxProperties": MANY, "required": ["a"]}, '{"a": 1}', "{}"),
    ],
    ids=str,
)
def test_greatest_counts_beyond_what_is_written(schema, valid, invalid):
    reads = Reader(grammar(schema))
    assert (reads(valid), reads(invalid)) == (True, False)


def nested(depth):
    schema = {"type": "integer"}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


def ladder(step):
    """Each definition refers to the following one twice."""
    rungs = {f"r{n}": step(n, {"$ref": f"#/$defs/r{n + 1}"}) for n in range(30)}
    return {"$ref": "#/$defs/r0", "$defs": {**rungs, "r30": {"type": "string", "pattern": "a"}}}


HOSTILE = {
    "deep": nested(1000),
    "large": {"enum": list(range(300_000))},
    "patterns": ladder(lambda n, r: {"oneOf": [r, {"allOf": [r, {"minLength": n}]}]}),
    "objects": ladder(lambda n, r: {"anyOf": [r, {"allOf": [r, {"required": [f"a{n}"]}]}], "not": {"minItems": n}}),
    "alternatives": {"allOf": [{"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]} for n in range(30)]},
    "exactly one": {"oneOf": [{"required": [f"a{n}", f"b{n}"]} for n in range(60)]},
    "branches": {"anyOf": [{"properties": {f"a{n}": {}}} for n in range(20)], "unevaluatedProperties": False},
    "names": {"patternProperties": {f"[a-z]{n}": {"minimum": n} for n in range(20)}},
    "counts": {"minLength": 10**9},
    "places": {"contains": {"const": 1}, "minContains": 5000, "maxItems": 90_000, "minItems": 50_000},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_are_refused(name):
    with pytest.raises(LlmanacError):
        Reader(grammar(HOSTILE[name]))
