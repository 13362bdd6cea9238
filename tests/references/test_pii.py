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


PHONES = [
    "030/901820-11", "030 901820-11", "(030) 901820-11", "(030) 9018 20", "0176 12345678", "0176/12345678",
    "089-1234567", "01 23 45 67 89", "01.23.45.67.89", "06 12 34 56 78", "020 7946 0958", "(020) 7946 0958",
    "01632 960123", "07700 900123", "044 668 18 00", "(02) 9876 5432", "0412 345 678", "020-1234567",
    "06-12345678", "03-1234-5678", "090-1234-5678", "06 1234 5678", "(11) 91234-5678", "(555) 123-4567",
    "(555)123-4567", "1 (555) 123-4567", "+49 30 901820-11", "+49 (0)30 901820", "+33 1 23 45 67 89",
    "+44 20 7946 0958", "+1 555-123-4567", "212-555-0199", "0221/123 45-67", "0711 / 123456",
]  # fmt: skip
MAILS = [
    "müller@exämple.de", "josé.garcía@correo.es", "почта@пример.рф", "δοκιμή@παράδειγμα.gr", "a@b.co",
    "mu\u0308ller@example.de", "søren@ørsted.dk", "łukasz@przykład.pl", "x@münchen.de",
    "jürgen.o'neil@firma-süd.de",
]  # fmt: skip
ORDINARY = [
    "01.02.2023", "01/02/2023", "2023-01-15", "01-02-2023 10:30", "09-12-2021 14", "0123/2021", "012345/2021",
    "v01.02.03.04", "01.02.03", "978-3-16-148410-0", "ISBN 0-306-40615-2", "ISBN 0-19-852663-6",
    "ISSN 0378-5955", "0,99 EUR", "1 234 567,89", "€ 01.234,50", "01 02 03 04 05", "08 09 10 11 12",
    "010 020 030 040", "00123 456 789", "(11) 1999-2004", "(12) 2001-2005", "0.123 456 789", "09:30-17:00",
    "3.1415926535", "12 345 678 901", "page 012/345", "07/2021", "1/2", "05/06/07", "#012345", "0x0123 4567",
    "01067 Dresden", "pp. 012-034", "10-20-30", "§ 012", "(02) 2021", "10.1000/182", "0123456789012345678",
    "GTIN 04012345678901", "08.08.2008 um 08 Uhr", "Table 03-12", "2:03 04", "007 008 009",
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind"), [*((t, "PHONE") for t in PHONES), *((t, "EMAIL") for t in MAILS)])
def test_numbers_and_addresses_of_many_countries_are_found(text: str, kind: str) -> None:
    assert redact(text)[0] == f"<{kind}>"
    assert redact(f"Tel. {text}, or ask")[0] == f"Tel. <{kind}>, or ask"


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_numbers_are_left_alone(text: str) -> None:
    for around in ("{}", "see {}.", "({})"):
        assert redact(around.format(text)) == (around.format(text), {})


@pytest.mark.slow
def test_numbers_drawn_at_random_are_no_telephone_numbers() -> None:
    """Dates, versions, prices, ISBNs, years, times and counts, thousands of each."""
    rng = random.Random(6)
    n = rng.randint
    for _ in range(3000):
        day, month, year = n(1, 31), n(1, 12), n(1900, 2099)
        for text in (
            f"{day:02}.{month:02}.{year}", f"{day:02}/{month:02}/{year}",
            f"{year}-{month:02}-{day:02}T{n(0, 23):02}:00",
            f"{day:02}-{month:02}-{year} {n(0, 23):02}:{n(0, 59):02}", f"v{n(0, 30)}.{n(0, 30)}.{n(0, 99)}",
            f"{n(0, 999)},{n(0, 99):02} EUR", f"${n(1, 99)},{n(0, 999):03}.{n(0, 99):02}",
            f"{n(1, 999)} {n(0, 999):03} km",
            f"978-{n(0, 9)}-{n(10, 99)}-{n(100000, 999999)}-{n(0, 9)}", f"0-{n(100, 999)}-{n(10000, 99999)}-{n(0, 9)}",
            f"({n(10, 99)}) {year}-{year + 3}" if year < 2096 else "", f"{month:04}/{year}",
            f"{n(0, 23):02}:{n(0, 59):02}",
            f"{n(0, 9999):04}", f"0.{n(0, 10**9):09}", f"{n(0, 99999):05} {'Berlin'}",
            f"pp. {n(1, 99):03}-{n(100, 999)}",
        ):  # fmt: skip
            assert redact(text, kinds=("phone", "email"))[1] == {}, text


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
