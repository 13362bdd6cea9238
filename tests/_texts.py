"""Texts for the tests of filters: real ones that every machine has, and ones made to be hard."""

from __future__ import annotations

import random
import sysconfig
from importlib import metadata
from pathlib import Path

from llmanac.kernels.english.rules import UNITS, special_cases

PIECES = [
    "http://", "www.", "foo.com", "a.b", "user@", "@", ":80", ":8080", "/x", "?q=1", "#", "10.0.0.1", "8.8.8.8",
    "192.168.1.1", "172.20.1.1", "300.1.1.1", "256", "US$", "C$", "A$", "°", "…", "……", "...", "..", "--", "---", "—",
    "——", "~", "-", "–", "+", "5", "10", "1", "³", "²", "A", "b", "Cc", "é", "É", "я", "Я", "中", "ー", "𝒳", "½", "€",
    "™", "©", "🙂", "⼡", "\u00a0", " ", "  ", "\t", "\n", "\n\n", "\r\n", "\u200b", "\u2028", "\x85", "\x1c", "'", "’",
    '"', "“", "”", "«", "(", ")", "[", "]", "{", "<", ">", "=", "*", "&", "_", "%", "§", "!", "?", ".", ",", ";", ":",
    "|", "\\", "/", "^", "$", "co.uk", "com", "localhost", "ftp://", "A.B", "x_y", "foo-", "_bar", "٣", "０", "．",
    "。", "？", "！", "İ", "ß", "؟", "the", "of", "and", "•", "- ", "lorem ipsum", "JavaScript", "use coo\u212aies",
    "[12]", "[edit]", "[citation needed]", "Privacy Policy", "\x00", "\ufeff", "Sentence one. Two! Three?\n",
]  # fmt: skip


def real(count: int | None = None, longest: int = 12_000) -> list[str]:
    """Starts of the standard library's sources and of the descriptions of what is installed: code, prose, tables."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = [path.read_text("utf-8", errors="replace") for path in sorted(root.glob("*.py"))]
    for package in sorted(metadata.distributions(), key=lambda d: d.metadata["Name"] or ""):
        texts.append(package.read_text("METADATA") or "")
    texts = [text for text in texts if text.strip()]
    random.Random(0).shuffle(texts)
    return [text[:longest] for text in texts[:count]]


def made(count: int, seed: int, longest: int = 12) -> list[str]:
    """Texts of pieces that rules treat in special ways, and of any characters."""
    rng = random.Random(seed)
    pieces = [*special_cases(), *UNITS, *PIECES, *PIECES]
    out = []
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, longest)):
            if rng.random() < 0.85:
                parts.append(rng.choice(pieces))
            else:
                number = rng.choice([rng.randrange(32, 127), rng.randrange(32, 0x3000), rng.randrange(32, 0x1FFFF)])
                parts.append("" if 0xD800 <= number < 0xE000 else chr(number))
        out.append("".join(parts))
    return [text for text in out if text]


def repetitive(count: int, seed: int) -> list[str]:
    """Texts of few different words, lines and paragraphs: near every threshold of the repetition rules."""
    rng = random.Random(seed)
    out = []
    for _ in range(count):
        words = [rng.choice(["a", "bc", "ab", "c", "the", "of", "word", "longer-word", "it's", "x."]) for _ in range(9)]
        words += [f"w{i}" for i in range(rng.randint(0, 150))]
        parts = [
            rng.choice(words) + rng.choice([" ", " ", " ", " ", " ", "\n", "\n\n", "\n \n", ". "])
            for _ in range(rng.randint(1, 260))
        ]
        text = "".join(parts)
        out.append(text + rng.choice(["", text[: rng.randint(0, 200)], "\n" + text[: rng.randint(0, 60)]]))
    return out
