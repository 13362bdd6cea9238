"""Finding personal data in text: e-mail and IP addresses, phone and card numbers, IBANs, US social security numbers.

Every pattern is linear in the text: runs are possessive (`++`), repeats are bounded, and an e-mail address is searched
for around its `@`. What has a check digit must pass the check.
"""

import ipaddress
import itertools
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

Span = tuple[int, int]

_ATOM = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~-"
_LETTERS = "\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u036f\u0370-\u052f\u1e00-\u1fff"  # Latin, Greek, Cyrillic
_LOCAL = re.compile(rf"(?<![.{_ATOM}])[.{_ATOM}]++(?=@)")
_ANY_LOCAL = re.compile(rf"(?<![.{_ATOM}{_LETTERS}])[.{_ATOM}{_LETTERS}]++(?=@)")
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+{_LABEL}|\[(?:{_OCTET}\.){{3}}(?:{_OCTET}|[A-Za-z0-9-]*[A-Za-z0-9]:)\]")
_ANY_LABEL = rf"[A-Za-z0-9{_LETTERS}](?:[A-Za-z0-9{_LETTERS}-]*[A-Za-z0-9{_LETTERS}])?"
_ANY_DOMAIN = re.compile(rf"(?:{_ANY_LABEL}\.)+{_ANY_LABEL}")
_LAST_LABEL = re.compile(rf"\.(?:[A-Za-z{_LETTERS}]{{2,24}}|xn--[A-Za-z0-9-]{{1,59}})$")
_IP_ANYWHERE = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}")
_IP = re.compile(rf"(?<![\w.-])(?:{_OCTET}\.){{3}}{_OCTET}(?![\w-]|\.\w)")
_IP6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_VERSION = re.compile(
    r"(?:(?:version|release|build|firmware|driver|ver|rev|revision|section|chapter|rfc|oid|v)[\s.:=]{0,3}|[=<>~!]=\s?)$",
    re.I,
)
_PHONE = re.compile(
    r"""(?<![\w.+/-])(?:
        \+[1-9][0-9]{0,2}(?:[ .\-/]?\(?[0-9]{1,4}\)?){2,6}    # +49 (30) 1234-567
      | (?:1[ .-])?\([2-9][0-9]{2}\)[ ]?[0-9]{3}[ .-][0-9]{4}        # (212) 555-0100
      | \([1-9][0-9]\)[ ]?9?[0-9]{4}-[0-9]{4}                         # (11) 91234-5678
      | \(0[1-9][0-9]{0,4}\)[ ]?[0-9]{2,8}(?:[ -][0-9]{1,6}){0,3}     # (030) 901820-11, (02) 9876 5432
      | 0[1-9][0-9]{1,4}[ ]?/[ ]?[0-9]{3,8}(?:[ -][0-9]{1,6}){0,3}    # 030/901820-11
      | 0[1-9](?:[ .][0-9]{2}){4}                                     # 01 23 45 67 89
      | 0[1-9][0-9]{0,4}(?:[ -][0-9]{2,8}){1,3}                       # 020 7946 0958
      | (?:1[ .-])?[2-9][0-9]{2}([.-])[2-9][0-9]{2}\1[0-9]{4}        # 212-555-0100
    )(?![\w-]|\.\d)""",
    re.X,
)
_CARD = re.compile(r"(?<![\w.+-])(?:\d[ -]?){12,18}\d(?![\w-]|\.\d)", re.A)
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?(?![A-Za-z0-9])", re.A)
_SSN = re.compile(r"(?<![\w.-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-]|\.\d)", re.A)
_IBAN_LENGTHS: dict[str, int] = tomllib.loads(Path(__file__).with_name("iban.toml").read_text("utf-8"))


def _addresses(text: str, local: re.Pattern[str], named: re.Pattern[str]) -> Iterator[tuple[int, int, int]]:
    """`(start, place of the @, end)` of every e-mail address: a dot-atom that starts at a word's edge, and a domain."""
    done = 0
    for run in local.finditer(text):
        at = run.end()
        start = max(run.start(), done, text.rfind("..", run.start(), at) + 2 if ".." in run[0] else 0)
        if start >= at or text[at - 1] == ".":
            continue
        while start < at and (text[start] == "." or not _edge(text, start)):
            start += 1
        domain = named.match(text, at + 1) if start < at else None
        if domain:
            yield start, at, domain.end()
            done = domain.end()


def _is_word(c: str) -> bool:
    return c == "_" or c.isalnum()


def _edge(text: str, at: int) -> bool:
    """Whether a word starts or ends between `text[at - 1]` and `text[at]`, as `\\b` has it."""
    return (at > 0 and _is_word(text[at - 1])) != _is_word(text[at])


def emails_as_datatrove(text: str) -> Iterator[Span]:
    for start, _, end in _addresses(text, _LOCAL, _DOMAIN):
        yield start, end


def ips_as_datatrove(text: str) -> Iterator[Span]:
    for found in _IP_ANYWHERE.finditer(text):
        if _is_public(found[0]):
            yield found.span()


def emails(text: str) -> Iterator[Span]:
    """Addresses whose domain ends in letters, also with marks: `package@1.2.3` is none."""
    for start, at, end in _addresses(text, _ANY_LOCAL, _ANY_DOMAIN):
        if text[start:at] == "git" and text[end : end + 1] == ":":  # where a repository is
            continue
        if at - start <= 64 and end - at <= 255 and _LAST_LABEL.search(text, at + 1, end):
            yield start, end


def ips(text: str) -> Iterator[Span]:
    """Public addresses of version 4 and 6 that are no part of a longer number and, by the word before, no version."""
    for pattern in (_IP, _IP6):
        for found in pattern.finditer(text):
            before = text[max(0, found.start() - 16) : found.start()]
            if _is_public(found[0]) and not _VERSION.search(before):
                yield found.span()


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False


def phones(text: str) -> Iterator[Span]:
    """Numbers with a country's code, those of North America, and national ones that begin with 0, in groups."""
    for found in _PHONE.finditer(text):
        groups = re.findall(r"\d+", found[0], re.A)
        national = groups[0][0] == "0" or (len(groups[0]) == 2 and found[0][0] == "(")
        if (9 if national else 8) <= sum(map(len, groups)) <= 15 and not (national and _counts_or_dates(groups)):
            yield found.span()


def _counts_or_dates(groups: list[str]) -> bool:
    """Whether groups of digits are no telephone number: 01 02 03 04 05, 01-02-2023 10, 012345/2021, (11) 1999-2004."""
    steps = {int(b) - int(a) for a, b in itertools.pairwise(groups)}
    year = re.compile(r"(?:19|20)\d\d$")
    day = int(groups[0]) <= 31 and len(groups) > 2 and len(groups[1]) == 2 and year.match(groups[2])
    even = len(steps) == 1 and len(groups) > 2 and abs(*steps) <= 10
    return even or bool(day) or all(map(year.match, groups[1:]))


def cards(text: str) -> Iterator[Span]:
    for found in _CARD.finditer(text):
        digits = [int(c) for c in found[0] if c.isdecimal()]
        if digits[0] in (2, 3, 4, 5, 6) and len(set(digits)) > 1 and _luhn(digits):
            yield found.span()


def _luhn(digits: list[int]) -> bool:
    total = sum(digits[-1::-2]) + sum(sum(divmod(2 * d, 10)) for d in digits[-2::-2])
    return total % 10 == 0


def ibans(text: str) -> Iterator[Span]:
    for found in _IBAN.finditer(text):
        start, end = found.span()
        length = _IBAN_LENGTHS.get(found[0][:2])
        if length is None:
            continue
        seen, stop = 0, start
        while stop < end and seen < length:  # what follows in capitals may be the next word
            seen += text[stop] != " "
            stop += 1
        code = text[start:stop].replace(" ", "")
        whole = stop == len(text) or not text[stop].isalnum()
        if len(code) == length and whole and int("".join(str(int(c, 36)) for c in code[4:] + code[:4])) % 97 == 1:
            yield start, stop


def security_numbers(text: str) -> Iterator[Span]:
    return (found.span() for found in _SSN.finditer(text))


FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "email": emails, "iban": ibans, "card": cards, "ip": ips, "ssn": security_numbers, "phone": phones,
}  # fmt: skip


def replaced(text: str, spans: list[Span], replacements: list[str]) -> str:
    """The text with each span (in order, none overlapping another) replaced."""
    parts, at = [], 0
    for (start, end), new in zip(spans, replacements, strict=True):
        parts += [text[at:start], new]
        at = end
    return "".join([*parts, text[at:]])
