"""Hugging Face's `tokenizer.json` with a `WordLevel` model, read strictly.

The steps around a byte-level BPE in a `tokenizer.json`: how text is cut, whether NFC comes first.
"""

from collections.abc import Mapping
from typing import Any

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers._word import Normal, WordLevel
from llmanac.tokenizers.hf.fields import pattern_of, require_text, steps_of, vocabulary_entries
from llmanac.tokenizers.patterns.splitter import DIGIT, DIGITS, GPT2, Splitter
from llmanac.tokenizers.patterns.words import WHITESPACE, WHITESPACE_SPLIT, WordSplitter


def is_byte_level(document: Mapping[str, Any]) -> bool:
    """Whether the vocabulary is of bytes, each written as a letter, rather than of characters."""
    kinds = []
    for part, inner in (("pre_tokenizer", "pretokenizers"), ("decoder", "decoders")):
        kinds += [step.get("type") for step in steps_of(document.get(part), part, inner)]
    return "ByteLevel" in kinds


def split_steps(pre_tokenizer: Any) -> tuple[list[str], bool]:
    """`(split patterns in order, whether a blank is put in front)`."""
    if pre_tokenizer is None:
        raise TokenizerError("pre_tokenizer: there is none, so the vocabulary is not of bytes; a ByteLevel is needed")
    patterns: list[str] = []
    prefix_space = byte_level = False
    for i, step in enumerate(steps_of(pre_tokenizer, "pre_tokenizer", "pretokenizers")):
        kind = step.get("type")
        if byte_level:
            raise TokenizerError(f"pre_tokenizer[{i}]: {kind} after ByteLevel is not supported")
        if kind == "ByteLevel":
            byte_level = True
            if step.get("add_prefix_space", True):
                if patterns:
                    raise TokenizerError(f"pre_tokenizer[{i}]: add_prefix_space after a split is not supported")
                prefix_space = True
            if step.get("use_regex", True):
                patterns.append(GPT2)
        elif kind == "Digits":
            patterns.append(DIGIT if step.get("individual_digits") else DIGITS)
        elif kind == "Split":
            patterns.append(split_pattern(step, i))
        else:
            raise TokenizerError(f"pre_tokenizer[{i}]: {kind!r} is not supported (known: Split, Digits, ByteLevel)")
    if not byte_level:
        raise TokenizerError("pre_tokenizer: has no ByteLevel step, so the vocabulary is not of bytes")
    return patterns, prefix_space


def split_pattern(step: Mapping[str, Any], i: int) -> str:
    """The regex of a Split that keeps all of the text."""
    regex = pattern_of(step, f"pre_tokenizer[{i}]").source
    if not regex:
        raise TokenizerError(f"pre_tokenizer[{i}]: Split's pattern is empty")
    behavior, invert = step.get("behavior"), bool(step.get("invert"))
    keeps_all = behavior == "Isolated"
    if behavior == "Removed" and invert:  # keeps the matches only: the same, for patterns that match everything
        keeps_all = Splitter([regex]).covers_everything
    if not keeps_all:
        raise TokenizerError(f"pre_tokenizer[{i}]: Split with behavior {behavior!r} (invert={invert}) is not supported")
    return regex


def wants_nfc(normalizer: Any) -> bool:
    nodes = steps_of(normalizer, "normalizer", "normalizers")
    for item in nodes:
        if item.get("type") != "NFC":
            raise TokenizerError(f"normalizer: {item.get('type')!r} is not supported (only NFC)")
    return bool(nodes)


def check_decoder(decoder: Any) -> None:
    if decoder is None:
        raise TokenizerError("decoder: there is none, so bytes are not written as text; a ByteLevel is needed")
    kinds = [item.get("type") for item in steps_of(decoder, "decoder", "decoders")]
    for kind in kinds:
        if kind not in ("ByteLevel", "Fuse"):
            raise TokenizerError(f"decoder: {kind!r} is not supported (only ByteLevel)")
    if kinds[:1] != ["ByteLevel"] or "ByteLevel" in kinds[1:]:
        raise TokenizerError("decoder: is to begin with a ByteLevel, and to have one only")


PRE_TOKENIZERS = {"Whitespace": WHITESPACE, "WhitespaceSplit": WHITESPACE_SPLIT}
NORMALIZERS: dict[str, Normal] = {"NFC": "nfc", "Lowercase": "lowercase"}
SPARE_IDS = 1024  # ids without an entry that a vocabulary may have, so that a huge one cannot fill the memory


def from_model(model: Mapping[str, Any], **parts: Any) -> WordLevel:
    """The tokenizer of a parsed file; `parts` are the document's parts around the model, added tokens and roles.

    Raises:
        TokenizerError: what is broken in it, or what it asks for and this package cannot do.
    """
    added, document = parts["added"], parts["document"]
    vocab, entries = vocabulary_entries(model, added, lambda text: text.encode("utf-8", "replace"))
    size = 1 + max(entries)
    if size > len(vocab) + 2 * len(added) + SPARE_IDS:
        raise TokenizerError(f"model.vocab: {len(vocab)} entries, but ids up to {size - 1}; number them without gaps")
    tokens: list[bytes | None] = [None] * size
    for id, text in entries.items():
        require_text(text, f"model.vocab: {text!r} (id {id})")
        tokens[id] = text.encode("utf-8")
    unknown = model.get("unk_token", "<unk>")
    if not isinstance(unknown, str):
        raise TokenizerError(f"model.unk_token: expected text, got {type(unknown).__name__}")
    known = {token.text: token.id for token in added} | vocab
    return WordLevel(
        tokens=tokens,
        splitter=_splitter(document.get("pre_tokenizer")),
        unknown=known.get(unknown),
        normal=_normal(document.get("normalizer")),
        separator=_separator(document.get("decoder")),
        **parts,
    )


def _splitter(pre_tokenizer: Any) -> WordSplitter:
    steps = steps_of(pre_tokenizer, "pre_tokenizer", "pretokenizers")
    kinds = [str(step.get("type")) for step in steps]
    for i, kind in enumerate(kinds):
        if kind not in (*PRE_TOKENIZERS, "Split"):
            known = ", ".join([*PRE_TOKENIZERS, "Split"])
            raise TokenizerError(f"pre_tokenizer[{i}]: {kind!r} is not supported for words (known: {known})")
        if kind in PRE_TOKENIZERS and len(kinds) > 1:
            raise TokenizerError(f"pre_tokenizer[{i}]: {kind!r} with another step beside it is not supported")
    if kinds and kinds[0] in PRE_TOKENIZERS:
        return WordSplitter(dropping=PRE_TOKENIZERS[kinds[0]])
    return WordSplitter([split_pattern(step, i) for i, step in enumerate(steps)])


def _normal(normalizer: Any) -> list[Normal]:
    kinds = [str(step.get("type")) for step in steps_of(normalizer, "normalizer", "normalizers")]
    for kind in kinds:
        if kind not in NORMALIZERS:
            raise TokenizerError(f"normalizer: {kind!r} is not supported for words (only NFC, Lowercase)")
    return [NORMALIZERS[kind] for kind in kinds]


def _separator(decoder: Any) -> bytes:
    if decoder is None:
        return b" "
    kinds = [step.get("type") for step in steps_of(decoder, "decoder", "decoders")]
    if any(kind != "Fuse" for kind in kinds):
        odd = next(kind for kind in kinds if kind != "Fuse")
        raise TokenizerError(f"decoder: {odd!r} is not supported for words (only Fuse, or none)")
    return b""
