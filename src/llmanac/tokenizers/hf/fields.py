"""Fields of untrusted JSON files, read strictly: what is broken or ambiguous is refused in one sentence."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import SpecError, TokenizerError
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._normal import SURROGATE
from llmanac.tokenizers.patterns.splitter import Pattern

FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")
PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")  # of a tokenizer.json, around its model
DOCUMENT, CONFIG, NAMES = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
TEMPLATE, TEMPLATES = "chat_template.jinja", "additional_chat_templates"
DECIDES = "sentencepiece_model"  # the key in tokenizer_config.json that names the .model file that decides
MOST_STEPS = 64  # of one part of a tokenizer, such as its normalizer
LONGEST = 20_000  # characters of a field
MOST = 1 << 28  # bytes of a tokenizer's file; the largest known ones have 40 million


def read_strictly(path: Path) -> Any:
    """A JSON document in which no object has a key twice. Raises TokenizerError as `files.read_json` does."""
    return files.read_json(path, most=MOST, error=TokenizerError)


def read_config(path: Path) -> Any:
    """The `tokenizer_config.json`, or an empty object where there is none."""
    return files.read_json(path, most=files.MOST_SETTINGS, error=TokenizerError) if path.exists() else {}


def table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TokenizerError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return dict(value)


def flags_of(token: Mapping[str, Any], where: str) -> dict[str, bool]:
    """The flags of an added token, off where they are left out. Raises TokenizerError for one that is not a boolean.

    The text "false" would otherwise count as true, and user text could then spell a control token.
    """
    found = {flag: token.get(flag, False) for flag in FLAGS}
    for flag, value in found.items():
        if not isinstance(value, bool):
            raise TokenizerError(f"{where}.{flag}: expected true or false, got {repr(value)[:40]}")
    return found


def switch_of(model: Mapping[str, Any], name: str, where: str) -> bool:
    """A switch of the model, off where it is null or left out. Raises TokenizerError if not a boolean."""
    value = model.get(name)
    if value is not None and not isinstance(value, bool):
        raise TokenizerError(f"{where}.{name}: expected true or false, got {repr(value)[:40]}")
    return bool(value)


def byte_fallback_of(model: Mapping[str, Any], entries: Mapping[str, int]) -> bool:
    """Whether the model has byte fallback. Raises TokenizerError where an entry `<0x00>` to `<0xFF>` is missing."""
    on = switch_of(model, "byte_fallback", "model")
    absent = next((byte for byte in range(256) if f"<0x{byte:02X}>" not in entries), None)
    if on and absent is not None:
        what = "piece" if model.get("type") == "Unigram" else "entry"
        raise TokenizerError(f"model.byte_fallback: is on, but the vocabulary has no {what} <0x{absent:02X}>")
    return on


def id_of(value: Any) -> int | None:
    """An id below 2^30, as a number or in digits; None for anything else."""
    if isinstance(value, str) and value.isdecimal() and len(value) <= 10:
        value = int(value)
    return value if type(value) is int and 0 <= value < 1 << 30 else None


def content(token: Any) -> str | None:
    """The text of a token that a configuration names, as text or as a table."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The tokens that a configuration names, `mask_token` and others, without those with a role of their own."""
    further = config.get("extra_special_tokens")
    listed = {**config, **(further if isinstance(further, Mapping) else {})}
    texts = {key: content(value) for key, value in listed.items() if key.endswith("_token")}
    return {key: text for key, text in texts.items() if text is not None and key[:4] not in ("bos_", "eos_", "pad_")}


def items_of(value: Any, where: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise TokenizerError(f"{where}: expected a JSON list, got {type(value).__name__}")
    return value or []


def steps_of(part: Any, where: str, inner: str) -> list[dict[str, Any]]:
    """The steps of a part of the pipeline: those of a Sequence, or the one that it is; none for null."""
    if part is None:
        return []
    node = table(part, where)
    items = items_of(node.get(inner), f"{where}.{inner}") if node.get("type") == "Sequence" else [node]
    if len(items) > MOST_STEPS:
        raise TokenizerError(f"{where}.{inner}: has {len(items)} steps; more than {MOST_STEPS} are not supported")
    for i, item in enumerate(items):
        if not isinstance(item, Mapping) or item.get("type") == "Sequence":
            raise TokenizerError(f"{where}[{i}]: expected a JSON object that is no Sequence, got {str(item)[:40]!r}")
    return items


def require_text(text: str, where: str) -> None:
    """Refuse a text that has no UTF-8 form."""
    if SURROGATE.search(text):
        raise TokenizerError(f"{where}: holds a surrogate, which no text can")


def text_field(node: Mapping[str, Any], key: str, where: str) -> str:
    """A field of a step that is text of bounded length."""
    value = node.get(key)
    if not isinstance(value, str):
        raise TokenizerError(f"{where}.{key}: expected text, got {repr(value)[:40]}")
    if len(value) > LONGEST:
        raise TokenizerError(f"{where}.{key}: has {len(value):,} characters; more than {LONGEST:,} are not supported")
    require_text(value, f"{where}.{key}")
    return value


def pattern_of(node: Mapping[str, Any], where: str) -> Pattern:
    """The pattern of a step. Raises TokenizerError for what is not one."""
    given = node.get("pattern")
    if not isinstance(given, Mapping) or len(given) != 1 or not ({"String", "Regex"} & given.keys()):
        raise TokenizerError(f"{where}: {node.get('type')} has no pattern; expected a String or a Regex")
    [key] = given
    text = text_field(given, key, f"{where}.pattern")
    try:
        return Pattern(re.escape(text) if key == "String" else text)
    except SpecError as error:
        raise TokenizerError(f"{where}.pattern: {text[:60]!r}: {error}") from None


def prepend_scheme(node: Mapping[str, Any]) -> Any:
    """When a Metaspace puts its mark in front of a text: always, never, or first."""
    older = "never" if node.get("add_prefix_space") is False else "always"
    return node.get("prepend_scheme", older)


def vocabulary_entries(
    model: Mapping[str, Any], added: Sequence[AddedToken], spelled: Callable[[str], bytes | None]
) -> tuple[dict[str, int], dict[int, str]]:
    """`(id of each entry, entry of each id)`, checked, and agreeing with the added tokens' ids.

    `spelled` says which bytes an entry writes.
    """
    vocab = table(model.get("vocab"), "model.vocab")
    if not vocab:
        raise TokenizerError("model.vocab: is empty")
    entries: dict[int, str] = {}
    for text, id in vocab.items():
        if type(id) is not int or not 0 <= id < 1 << 30:
            raise TokenizerError(f"model.vocab: {text!r} has the id {id!r}, which is no number from 0 on")
        if id in entries:
            raise TokenizerError(f"model.vocab: {entries[id]!r} and {text!r} both have the id {id}")
        if not text:
            raise TokenizerError(f"model.vocab: the entry with the id {id} is empty")
        entries[id] = text
    for token in added:
        if vocab.get(token.text, token.id) != token.id:
            raise TokenizerError(f"added token {token.text!r}: id {token.id}, but {vocab[token.text]} in model.vocab")
        held = entries.get(token.id, token.text)
        if held != token.text and spelled(held) != token.text.encode("utf-8"):
            raise TokenizerError(f"added token {token.text!r}: has the id {token.id}, which is {held!r} in model.vocab")
    return vocab, entries
