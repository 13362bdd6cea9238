"""Hugging Face's `tokenizer.json` with a `WordLevel` model, read strictly."""

from collections.abc import Mapping
from typing import Any

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers._word import Normal, WordLevel
from llmanac.tokenizers.hf.byte_level import split_pattern
from llmanac.tokenizers.hf.fields import require_text, steps_of, vocabulary_entries
from llmanac.tokenizers.patterns.words import WHITESPACE, WHITESPACE_SPLIT, WordSplitter

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
