"""What the tests beside the sentencepiece library share: models that it trains, and texts of many kinds."""

from __future__ import annotations

import functools
import io
import random
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PHRASES = [
    "the quick brown fox jumps over the lazy dog, and 12 others", "naïve café, it's 3.14 or 42%",
    "def f(x): return x[1:-1]", "Привет, мир! Как у тебя дела сегодня?", "你好，世界。今天天气怎么样？",
    "こんにちは、世界。カタカナとひらがなー", "안녕하세요 세계, 각각",
    "مرحبا بالعالم، كيف حالك؟", "שלום עולם, מה שלומך",
    "नमस्ते दुनिया, आप कैसे हैं", "สวัสดีชาวโลก วันนี้อากาศดี", "Γειά σου Κόσμε", "xin chào thế giới",
    "İstanbul'da ağaçlar çok güzel", "🙂👍🏽 👨‍👩‍👧 family 🇫🇷 flag",
]  # fmt: skip
ODD = [
    "", " ", "   x", "x   ", "\t", "\n\n", "\r\n", "\0", "a\0b", "\u2581", "\u2581\u2581a b\u2581", "e\u0301\u0323x",
    "\ufb01 Ａｂｃ ①", "\ufeffbom", "\u200bzw\u200d", "\ufffd", "\U0010ffff", "\x01\x02", "\u3000\u3000x\u3000",
    "\ufdfa" * 3,
    "<s> </s> <unk> <0x41>", "a" * 3000, "ab" * 1500, "中" * 1000, " " * 500, "ａ\u030a", "한글", "x\u2585y", "9" * 40,
]  # fmt: skip


@functools.cache
def code(files: int = 25) -> tuple[str, ...]:
    """Lines of the standard library's sources."""
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:files]
    return tuple(line for path in paths for line in path.read_text("utf-8", errors="replace").split("\n") if line)


@functools.cache
def scrambled(count: int = 400) -> tuple[str, ...]:
    """Random texts over all of Unicode, and of phrases cut and joined."""
    rng = random.Random(7)
    near = [
        chr(c) for c in (*range(0x20, 0x250), *range(0x300, 0x370), 0x2581, 0x3000, 0x4E00, 0x1F600, 0xFDFA, 0xAC00)
    ]
    out = []
    for _ in range(count):
        far = chr(rng.choice([rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x110000)]))
        pool = [rng.choice(near), far, " ", "e", "th", rng.choice(PHRASES)[:9]]
        out.append("".join(rng.choice([*pool, rng.choice(near)]) for _ in range(rng.randrange(1, 30))))
    return tuple(out)


def texts() -> list[str]:
    """Every kind of text, single lines and whole pages."""
    lines = [*PHRASES, *ODD, *scrambled(), *code()[:500]]
    return [*lines, "\n".join(code()[:400]), " ".join(PHRASES * 20), "\n".join(lines)]


@functools.cache
def trained(**choices: Any) -> bytes:
    """A model that the library trains on phrases and code."""
    import sentencepiece

    out = io.BytesIO()
    settings: dict[str, Any] = {"vocab_size": 900, "num_threads": 1, "minloglevel": 2, "hard_vocab_limit": False}
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in choices.items()}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*PHRASES * 20, *code()[:1500]]), model_writer=out, **settings | lists
    )
    return out.getvalue()


def differing(ours: Sequence[Any], theirs: Sequence[Any], given: Sequence[str]) -> list[str]:
    """The texts that two tokenizers cut differently, for a message."""
    return [text[:60] for mine, other, text in zip(ours, theirs, given, strict=True) if list(mine) != list(other)]
