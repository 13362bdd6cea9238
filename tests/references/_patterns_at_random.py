"""Random patterns and texts for the tests beside Hugging Face's `tokenizers`."""

from __future__ import annotations

import random

ATOMS = [
    "a", "b", "e", "1", " ", "'", "!", "é", "中", "_", "-", ":", "/", "=", "<", ">", "#", "~", "&", "@", r"\n", r"\r",
    r"\t", r"\.", r"\-", r"\[", r"\\", r"\x41", r"\x{e9}", r"\u00e9", r"\w", r"\W", r"\s", r"\S", r"\d", r"\D", r"\h",
    r"\H", r"\R", r"\N", r"\O", ".", r"\p{L}", r"\p{N}", r"\P{L}", r"\p{^N}", r"\p{Lu}", r"\p{Ll}", r"\p{Lo}", r"\p{M}",
    r"\p{Mn}", r"\p{P}", r"\p{S}", r"\p{Z}", r"\p{Han}", r"\p{Latin}", r"\p{Arabic}", r"\p{Hiragana}", r"\p{Alpha}",
    r"\p{Space}", r"\p{Letter}", r"\p{XDigit}", r"\p{Cc}", r"\p{Alnum}", r"\p{Upper}", r"\p{Word}", r"\p{Nd}",
    r"\p{punct}", "{", "}", "]", "{,}", "{e<=1}", r"\q", r"\e", r"\0", r"\pL", r"\1", r"\X", r"\G", r"\y",
]  # fmt: skip
SETS = [
    "abc", "^abc", "a-z", "^a-z0-9", r"\s", r"^\s", r"^\r\n\p{L}\p{N}", r"^\s\p{L}\p{N}", r"\w", r"^\w", r"\w\s", r"\d_",
    r"\p{L}\p{M}", r"[:alpha:]", r"^[:space:]", r"[:digit:]a", "[:punct:]", "[:^alpha:]", r"a-z&&[^aeiou]", "[a-c]e",
    r"\u4e00-\u9fff", r"\p{Han}\p{Hiragana}", "a-", "-a", r"\]\[", "à-ÿ", r"^\n", r"\x00-\x20", r"\h", "é中", "]a",
    r"^\p{^L}", r"\W", r"[:word:]", r"\p{Ll}", "sk", "A-Z", r"\S&&\P{L}", r"a-z--c", "a-c-e", "[:xdigit:]", "\u0300-\u036f",
]  # fmt: skip
ANCHORS = ["^", "$", r"\A", r"\z", r"\Z", r"\b", r"\B"]
QUANTIFIERS = ["?", "*", "+", "??", "*?", "+?", "?+", "*+", "++", "{2}", "{1,3}", "{1,3}+", "{,2}", "{2,}", "{1,2}?",
               "{2}?", "{2}+", "{3,1}"]  # fmt: skip
WHOLE = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"\w+|[^\w\s]+", r"\w+|\s+", r"^\s+|\s+$", r"$", r"^", r"\b", r"", "(?m:.)+", r" {2,}", r"\s", r"[0-9]", r"\A +| +\z",
    r"[一-龥぀-ゟ゠-ヿ]+", r"[!-/:-~]\p{L}+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(a+)+$|[^a]+", r"(?<=\p{L})(?=\p{N})", r"(?i)the|a", r"(?<!\S)\w", r".+?$",
]  # fmt: skip
TEXT_PARTS = [
    "a", "b", "ab", "the", " the", "The", "s", "S", "ſ", "K", "k", "e", "é", "e\u0301", "\u0301", "\u0300", "中", "日本", "ひ",
    "カー", "ー", "ـ", "سلام", "12", "1", "٣", "²", "½", "ⅷ", "Ⓐ", " ", "  ", "\n", "\n\n", "\r\n", "\r", "\t", "\v",
    "\x85", "\xa0", "\u2028", "\u3000", "\u200d", "\u200c", "\u200b", "\0", "\x01", "_", "-", "!", "...", "'s", "'LL", "'",
    "’", "<s>", "</s>", "<x>", "[MASK]", "🙂", "👍🏽", "👨\u200d👩\u200d👧", "🇫🇷", "ﬁ", "ß", "ẞ", "İ", "ı", "Σ", "ς", "ǅ",
    "ａ", "Ａ", "①", "각", "\u1100\u1161", "\u2581", "\u2581a", "Ġ", "Ċ", "\ufffd", "\ufeff", "ʕ", "\u0345", "=", "{e<=1}",
    "0", "A", "Z", "z", "q", "pL", "#", "/", "~", "&", "é1", "ñ", "นี", "क्षि", "\U00011938", "\ua7f2", "\u32ff", "\U0010ffff", "\ud7ff", "&&", "--",
]  # fmt: skip


def random_pattern(rng: random.Random, depth: int = 0) -> str:
    """A pattern, now and then one that is none."""
    if depth == 0 and rng.random() < 0.25:
        return rng.choice(WHOLE)
    return "|".join(_sequence(rng, depth) for _ in range(rng.choice([1, 1, 2, 3]) if depth < 2 else 1))


def _sequence(rng: random.Random, depth: int) -> str:
    out = []
    for _ in range(rng.choice([1, 1, 2, 3, 4]) if depth < 3 else 1):
        draw = rng.random()
        if draw < 0.07:
            out.append(rng.choice(ANCHORS))
            continue
        if draw < 0.4:
            atom = rng.choice(ATOMS)
        elif draw < 0.75:
            atom = f"[{rng.choice(SETS)}]"
        elif depth < 3:
            start = rng.choice(["(", "(?:", "(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?m:", "(?<n>", "(?i)", "(?x:"])
            atom = start + ("" if start == "(?i)" else random_pattern(rng, depth + 1) + ")")
        else:
            atom = "a"
        if rng.random() < 0.45:
            atom += rng.choice(QUANTIFIERS)
        out.append(atom)
    return "".join(out)


def random_text(rng: random.Random, parts: list[str] = TEXT_PARTS, longest: int = 14) -> str:
    """A text of parts that are odd in one way or another; now and then a character from anywhere."""
    out = [rng.choice(parts) for _ in range(rng.randrange(longest))]
    if rng.random() < 0.2:
        out.insert(rng.randrange(len(out) + 1), chr(rng.choice([rng.randrange(1, 0xD800), rng.randrange(0xE000, 0x110000)])))
    return "".join(out)
