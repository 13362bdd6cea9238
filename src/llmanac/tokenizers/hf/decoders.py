"""How the tokens of a Unigram model, or of a BPE over characters, become a text by a `tokenizer.json`.

Each decoder follows Hugging Face `tokenizers`; an unsupported one is refused by name.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers._pieces import byte_of
from llmanac.tokenizers.hf.fields import pattern_of, prepend_scheme, steps_of, text_field
from llmanac.tokenizers.hf.steps import MOST_GROWTH, SPACE, grown, substituted
from llmanac.tokenizers.patterns.splitter import TimeBudget

Join = Callable[[Sequence[str]], str]
BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def decoder(part: Any) -> Join:
    """How tokens become a text; without a decoder they are joined by spaces, as `tokenizers` does."""
    if part is None:
        return " ".join
    nodes = steps_of(part, "decoder", "decoders")
    made = [_join_step(node, f"decoder[{i}]") for i, node in enumerate(nodes)]
    product = math.prod(max(1.0, grown(node)) for node in nodes)
    if product > MOST_GROWTH:
        raise TokenizerError(
            f"decoder: its steps can make a text {product:.3g} times as long; more than {MOST_GROWTH} is refused"
        )

    def run(tokens: Sequence[str]) -> str:
        held = list(tokens)
        for step in made:
            held = step(held)
        return "".join(held)

    return run


def _join_step(node: Mapping[str, Any], where: str) -> Callable[[list[str]], list[str]]:
    kind = node.get("type")
    if kind == "Fuse":
        return lambda tokens: ["".join(tokens)]
    if kind == "ByteFallback":
        return _bytes_joined
    if kind == "Replace":
        pattern, new = pattern_of(node, where), text_field(node, "content", where)

        def replaced(tokens: list[str]) -> list[str]:
            budget = TimeBudget(sum(map(len, tokens)))
            return [substituted(token, pattern, new, budget)[0] for token in tokens]

        return replaced
    if kind == "Strip":
        character, start, stop = text_field(node, "content", where), node.get("start", 0), node.get("stop", 0)
        if type(start) is not int or type(stop) is not int:
            raise TokenizerError(f"{where}: start and stop are to be numbers")
        return lambda tokens: [_strip_token(token, character, start, stop) for token in tokens]
    if kind == "Metaspace":
        mark = str(node.get("replacement", SPACE))
        scheme = prepend_scheme(node)
        return lambda tokens: [
            token.replace(mark, "" if i == 0 and scheme != "never" else " ") for i, token in enumerate(tokens)
        ]
    if kind == "WordPiece":
        prefix, clean = text_field(node, "prefix", where), node.get("cleanup", True)
        if not isinstance(clean, bool):
            raise TokenizerError(f"{where}.cleanup: expected true or false, got {repr(clean)[:40]}")
        return lambda tokens: [_word_piece(token, i, prefix, clean) for i, token in enumerate(tokens)]
    known = "Fuse, ByteFallback, Replace, Strip, Metaspace, WordPiece"
    raise TokenizerError(f"{where}: {kind!r} is not supported (known: {known})")


CLEANED = {  # in this order
    " .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't", " 'm": "'m", " do not": " don't",
    " 's": "'s", " 've": "'ve", " 're": "'re",
}  # fmt: skip


def _word_piece(token: str, place: int, prefix: str, clean: bool) -> str:
    """A token with a blank before it where it begins a word, and blanks before some punctuation taken away."""
    if place:
        token = token[len(prefix) :] if token.startswith(prefix) else f" {token}"
    for old, new in CLEANED.items() if clean else ():
        token = token.replace(old, new)
    return token


def _strip_token(token: str, character: str, start: int, stop: int) -> str:
    a, b = 0, len(token)
    while a < min(start, len(token)) and token[a] == character:
        a += 1
    while len(token) - b < stop and b > a and token[b - 1] == character:
        b -= 1
    return token[a:b]


def _bytes_joined(tokens: list[str]) -> list[str]:
    """Runs of byte tokens as the text they spell, or one U+FFFD for each where they spell none."""
    out: list[str] = []
    run = bytearray()
    for token in [*tokens, ""]:
        byte = byte_of(f"<0x{token[3:5].upper()}>") if BYTE.fullmatch(token) else -1
        if byte >= 0:
            run.append(byte)
            continue
        if run:
            try:
                out.append(run.decode("utf-8"))
            except UnicodeDecodeError:
                out += ["\ufffd"] * len(run)
            run = bytearray()
        out.append(token)
    return out[:-1]
