"""Personal data: as datatrove's formatter finds it, and as ours does, with what only looks like it left alone."""

from __future__ import annotations

import random

import pytest
from _texts import real
from hypothesis import given, settings
from hypothesis import strategies as st

from llmanac.core.errors import SpecError
from llmanac.core.registry import build
from llmanac.data.documents import Document

PIECES = [
    "a", "foo", "@", ".", "..", "-", "_", "b.com", "1.2.3.4", "8.8.8.8", "256.1.1.1", "25", "0", "01", " ", "!", "é",
    "x@y.z", "[1.2.3.4]", "[1.2.3.ab:]", "@@", "%", "中", "\n", "a-", "-a", "'", "+", "10.0.0.1", "1.1.1.1234", ".com",
]  # fmt: skip
NUMBERS = ["+1 212 555 0199 ", "4111111111111111 ", "DE89370400440532013000 "]


def redact(text: str, **choices) -> tuple[str, dict[str, int]]:
    return build("stage", "pii", **choices).redact(text)


def test_examples_are_datatroves() -> None:
    peer = pytest.importorskip("datatrove.pipeline.formatters").PIIFormatter
    rng = random.Random(5)
    texts = real(60) + ["".join(rng.choices(PIECES, k=rng.randint(1, 14))) for _ in range(8_000)]
    changed = 0
    for text in texts:
        expected = peer().format(text)
        assert redact(text, replacement="examples")[0] == expected, ascii(text)
        changed += expected != text
    assert changed > 400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to joe.doe@corp.example.co.uk.", "write to <EMAIL>."),
        ("(a_b+c@x.org)", "(<EMAIL>)"),
        ("call +49 30 1234567, (212) 555-0199 or 212-555-0199", "call <PHONE>, <PHONE> or <PHONE>"),
        ("4111 1111 1111 1111 and 378282246310005", "<CARD> and <CARD>"),
        ("DE89 3704 0044 0532 0130 00 or GB29NWBK60161331926819", "<IBAN> or <IBAN>"),
        ("from 8.8.8.8 and 2001:4860:4860::8888", "from <IP> and <IP>"),
        ("SSN 123-45-6789", "SSN <SSN>"),
    ],
)
def test_found(text: str, expected: str) -> None:
    assert redact(text)[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        "version 8.8.4.4, v1.2.3.4, build 12.0.1.7, numpy==1.26.4.1",
        "192.168.0.1 127.0.0.1 ::1 12:30:45 256.1.1.1 1.2.3",
        "npm install pkg@1.2.3 && git clone git@github.com:foo/bar",
        "a@b user@localhost @decorator x @ y",
        "2023-01-15 3.14159265358979323846 0x4111111111111111 978-3-16-148410-0 doi:10.1000/182",
        "4111-1111-1111-1112 1234567890123456 0000000000000000",
        "GB29NWBK60161331926818 AB12CDEF34567890",
        "000-12-3456 666-12-3456 900-12-3456 123-00-4567 123-45-0000",
        "x = a[1] - 555 - 1234; range(100, 200, 3000)",
    ],
)
def test_left_alone(text: str) -> None:
    assert redact(text) == (text, {})


def test_code_has_few_false_finds() -> None:
    """Phones, cards, IBANs and security numbers in the sources of the standard library would be false."""
    counts: dict[str, int] = {}
    for text in real():
        if "import " in text:
            for kind, count in redact(text, kinds=("phone", "card", "iban", "ssn"))[1].items():
                counts[kind] = counts.get(kind, 0) + count
    assert sum(counts.values()) <= 20, counts


def test_counts_are_in_the_meta_and_the_rest_of_the_text_stays() -> None:
    stage = build("stage", "pii")
    documents = [Document("a", "one@x.org two@x.org 8.8.8.8", "g", {"url": "u"}), Document("b", "nothing here", "g")]
    first, second = stage.apply(documents)
    assert first.text == "<EMAIL> <EMAIL> <IP>"
    assert first.meta == {"url": "u", "pii": {"email": 2, "ip": 1}}
    assert second is documents[1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([*PIECES, "+1 212 555 0199 ", "4111111111111111 ", "DE89370400440532013000 "]), max_size=20
    )
)
def test_redacting_twice_changes_nothing(parts) -> None:
    once = redact("".join(parts))[0]
    assert redact(once)[0] == once


def test_each_document_starts_anew() -> None:
    stage = build("stage", "pii-examples")
    texts = [d.text for d in stage.apply([Document(str(i), "me@x.org", "g") for i in range(3)])]
    assert texts == ["email@example.com"] * 3


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(SpecError, match="kinds: no 'mail'"):
        build("stage", "pii", kinds=("mail",))
