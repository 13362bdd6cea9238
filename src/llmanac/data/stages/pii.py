"""Personal data out: e-mail and IP addresses, phone and card numbers, IBANs and social security numbers are replaced.

By default each is replaced by a placeholder (`<EMAIL>`), and only where checks agree: a card number must pass Luhn's
check and start as cards do, an IBAN its check digits and its country's length, an address must be public and not follow
a word like "version". `pii-examples` finds and replaces what the reference does (e-mail and public IPv4
addresses anywhere, by example addresses), starting with the first one in every document.
How many of each were replaced is in `meta["pii"]`.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from llmanac.core.errors import SpecError, nearest
from llmanac.data import _personal
from llmanac.data.documents import Document
from llmanac.data.stages import Dropped, Stage, StageSpec

CARD = {
    "title": "Redaction of personal data",
    "paper": "Penedo et al. 2024, The FineWeb Datasets; ISO 13616 (IBAN), ISO/IEC 7812 (card numbers)",
    "reference": "datatrove PIIFormatter",
    "aliases": {"pii-examples": {"replacement": "examples"}},
    "test": "tests/references/test_pii.py",
}
EMAILS = ("email@example.com", "firstname.lastname@example.org")
ROUNDS = 8
IPS = ("22.214.171.124", "126.96.36.199", "188.8.131.52", "184.108.40.206", "220.127.116.11", "18.104.22.168")


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """What is replaced.

    Attributes:
        kinds: any of email, ip, phone, card, iban, ssn.
        replacement: "placeholders" writes `<EMAIL>` and so on; "examples" does what the reference does, for email and
            ip, and leaves the other kinds alone.
    """

    kinds: tuple[str, ...] = ("email", "ip", "phone", "card", "iban", "ssn")
    replacement: Literal["placeholders", "examples"] = "placeholders"

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in _personal.FINDERS:
                known = ", ".join(_personal.FINDERS)
                raise SpecError(f"kinds: no {kind!r}{nearest(kind, _personal.FINDERS)} (known: {known})")

    def build(self, **dims: Any) -> Stage:
        return PII(self)


class PII(Stage):
    """Replaces what it finds; drops nothing."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def one(self, document: Document) -> Document | Dropped:
        text, counts = self.redact(document.text)
        return replace(document, text=text, meta={**document.meta, "pii": counts}) if counts else document

    def redact(self, text: str) -> tuple[str, dict[str, int]]:
        """The text without personal data, and how many of each kind were found."""
        if self.spec.replacement == "examples":
            return self._with_examples(text)
        kinds: list[str] = []
        for _ in range(ROUNDS):  # what stood next to a number that has gone may be found now
            spans = self._spans(text)
            if not spans:
                break
            kinds += [kind for *_, kind in spans]
            text = _personal.replaced(text, [span[:2] for span in spans], [f"<{span[2].upper()}>" for span in spans])
        return text, _counts(kinds)

    def _spans(self, text: str) -> list[tuple[int, int, str]]:
        """`(start, end, kind)` in order; where two overlap, the one that starts first, then the longer one."""
        found: list[tuple[int, int, str]] = []
        for kind, finder in _personal.FINDERS.items():
            if kind in self.spec.kinds:
                found += [(start, end, kind) for start, end in finder(text)]
        found.sort(key=lambda span: (span[0], -span[1]))
        kept: list[tuple[int, int, str]] = []
        for span in found:
            if not kept or span[0] >= kept[-1][1]:
                kept.append(span)
        return kept

    def _with_examples(self, text: str) -> tuple[str, dict[str, int]]:
        kinds: list[str] = []
        for kind, finder, examples in (
            ("email", _personal.emails_as_datatrove, EMAILS),
            ("ip", _personal.ips_as_datatrove, IPS),
        ):
            if kind in self.spec.kinds:
                spans = list(finder(text))
                text = _personal.replaced(text, spans, [examples[i % len(examples)] for i in range(len(spans))])
                kinds += [kind] * len(spans)
        return text, _counts(kinds)


def _counts(kinds: list[str]) -> dict[str, int]:
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}
