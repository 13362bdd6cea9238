"""Make `src/llmanac/kernels/unicode_classes.npz`: the character classes that split text, as tiktoken knows them.

Splitting must agree with the tokenizers whose vocabularies we load, and those follow one Unicode version whatever this
Python or the `regex` module knows. So the table is probed from tiktoken itself: each general category is put to it as
a split pattern over every code point. `tokenizers`' `Digits` step asks Rust's own character table, which may be of
another version, so its answer is kept too.

A second table, `src/llmanac/tokenizers/unicode_normal.npz`, has what the normalisers of `tokenizers` know otherwise
than Python: they follow an older Unicode (forms, marks) and a newer one (lower case).

    python tools/make_unicode_tables.py          # needs the [bench] extra
"""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import numpy as np
import tiktoken
import tokenizers
from tokenizers import normalizers, pre_tokenizers

from llmanac.core.files import write_bytes
from llmanac.kernels.unicode import CATEGORIES, CODE_POINTS, TABLE, in_categories
from llmanac.tokenizers import _normal

EVERY = "".join(chr(c) for c in range(CODE_POINTS) if not 0xD800 <= c < 0xE000)


def matched(pattern: str) -> np.ndarray:
    """Which code points tiktoken matches with a pattern of one character."""
    encoding = tiktoken.Encoding(
        "probe", pat_str=pattern, mergeable_ranks={bytes([b]): b for b in range(256)}, special_tokens={}
    )
    found = np.zeros(CODE_POINTS, bool)
    found[[ord(c) for c in encoding.decode(encoding.encode_ordinary(EVERY))]] = True
    return found


def digits() -> np.ndarray:
    """Which code points the `Digits` step of `tokenizers` sets apart."""
    step = pre_tokenizers.Digits(individual_digits=True)
    found = np.zeros(CODE_POINTS, bool)
    for piece, _ in step.pre_tokenize_str("a".join(["", *EVERY.replace("a", "")])):
        if len(piece) == 1 and piece != "a":
            found[ord(piece)] = True
    return found


def normal_table() -> dict[str, np.ndarray]:
    """The arrays of `tokenizers/_normal.py`."""
    strip, lower = normalizers.StripAccents(), normalizers.Lowercase()
    forms = [(name, getattr(normalizers, name)()) for name in ("NFC", "NFD", "NFKC", "NFKD")]
    marks, unknown, pairs = [], set(), []
    is_mark = in_categories("M")
    for character in EVERY:
        if strip.normalize_str(f"a{character}b") != f"a{character}b":
            marks.append(ord(character))
        elif is_mark[ord(character)]:
            unknown.add(ord(character))
        if any(unicodedata.normalize(name, character) != form.normalize_str(character) for name, form in forms):
            parts = unicodedata.normalize("NFD", character)
            unknown |= {ord(character), ord(parts[-1])} if len(parts) > 1 else {ord(character)}
        lowered = lower.normalize_str(character)
        pairs += [(ord(character), ord(new)) for new in lowered if lowered != character]
    arrays = {"marks": marks, "unknown": sorted(unknown), "lower": pairs}
    return {name: np.array(values, np.int32) for name, values in arrays.items()}


def bert_table() -> dict[str, np.ndarray]:
    """The arrays of `tokenizers/hf/bert.py`: ranges of code points that BERT's steps remove or set apart."""
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    clean, strip = (normalizers.BertNormalizer(**off | {name: True}) for name in ("clean_text", "strip_accents"))
    split = pre_tokenizers.BertPreTokenizer()
    found: dict[str, list[int]] = {"bert_removed": [], "bert_marks": [], "bert_punctuation": []}
    for character in EVERY:
        holds = {
            "bert_removed": clean.normalize_str(f"a{character}b") == "ab",
            "bert_marks": not strip.normalize_str(character),
            "bert_punctuation": len(split.pre_tokenize_str(f"a{character}b")) == 3,
        }
        for name, codes in found.items():
            codes += [ord(character)] * holds[name]
    return {name: ranges(np.array(codes)) for name, codes in found.items()}


def ranges(codes: np.ndarray) -> np.ndarray:
    """(n, 2) int32: first and last of each run of code points."""
    first = np.diff(codes, prepend=-2) > 1
    return np.stack([codes[first], codes[np.append(first[1:], True)]], 1).astype(np.int32)


def main() -> None:
    values = np.full(CODE_POINTS, CATEGORIES.index("Cs"), np.uint8)
    for index, category in enumerate(CATEGORIES):
        if category != "Cs":
            values[matched(rf"\p{{{category}}}")] = index
    values |= matched(r"\s").astype(np.uint8) << 6
    values |= digits().astype(np.uint8) << 7
    starts = np.flatnonzero(np.diff(values, prepend=255)).astype(np.int32)
    buffer = io.BytesIO()
    sources = f"tiktoken {tiktoken.__version__}, tokenizers {tokenizers.__version__}"
    np.savez_compressed(buffer, starts=starts, values=values[starts], sources=np.array(sources))
    path = Path(__file__).resolve().parent.parent / "src" / "llmanac" / "kernels" / TABLE
    write_bytes(path, buffer.getvalue())
    print(f"{path.name}: {len(starts)} ranges, {len(buffer.getvalue())} bytes, from {sources}")
    made = io.BytesIO()
    np.savez_compressed(made, **normal_table(), **bert_table(), sources=np.array(sources))
    path = Path(_normal.__file__).with_name(_normal.TABLE)
    write_bytes(path, made.getvalue())
    print(f"{path.name}: {len(made.getvalue())} bytes")


if __name__ == "__main__":
    main()
