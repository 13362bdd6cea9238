"""Hugging Face's `tokenizer.json` and `tokenizer_config.json` : read strictly; `write.py` writes them.

What the file asks for and this package cannot do is refused by name, never ignored: a tokenizer that cuts text a
little differently gives wrong ids without any sign of it. Its `truncation` and `padding` are the caller's business
here and not applied; its `post_processor` is what `Tokenizer.framed` puts around texts, and tells whether they begin
with a BOS token.
"""

import json
import operator
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import SpecError, TokenizerError
from llmanac.core.files import MOST_SETTINGS, read_text
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._base import ROLES, Tokenizer
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers._byte_level import read, read_all
from llmanac.tokenizers.hf import fields
from llmanac.tokenizers.hf.word import check_decoder, is_byte_level, split_steps, wants_nfc
from llmanac.tokenizers.patterns.splitter import Splitter
from llmanac.tokenizers.utf8 import UTF8


def load(path: Path, config: Any, chat_template: str | None) -> Tokenizer:
    """Read a `tokenizer.json`; `beside` gives the configuration and the chat template.

    Raises:
        TokenizerError: anything in the file that is broken or that cannot be honoured; the message names it.
    """
    document = fields.read_strictly(path)
    try:
        return from_document(document, config, chat_template)
    except (TokenizerError, SpecError) as error:
        raise TokenizerError(f"{path}: {error}") from None


def beside(path: Path) -> tuple[Any, str | None]:
    """`(the configuration, the chat template)` in the folder of a file."""
    config = fields.read_config(path.with_name(fields.CONFIG))
    if isinstance(config, dict) and "added_tokens_decoder" not in config:  # older folders name tokens in a second file
        config |= fields.table(fields.read_config(path.with_name(fields.NAMES)), fields.NAMES)
    source, tools = path.with_name(fields.TEMPLATE), path.parent / fields.TEMPLATES / "tool_use.jinja"
    if source.exists():
        found = [read_text(one, most=MOST_SETTINGS, error=TokenizerError) for one in (source, tools) if one.exists()]
        return config, chosen(*found)
    try:
        return config, template_of(config)
    except TokenizerError as error:
        raise TokenizerError(f"{path.with_name(fields.CONFIG)}: {error}") from None


def chosen(default: Any, tools: Any = None) -> Any:
    """One template for two: that for tools counts wherever tools are given. Each begins a line, and its end is kept."""
    if not (isinstance(default, str) and isinstance(tools, str)):
        return default
    first, second = ("\n" + text.removesuffix("\n") + "{{ '' }}" for text in (tools, default))
    return f"{{% if tools is defined and tools is not none %}}{first}{{% else %}}{second}{{% endif %}}"


def from_document(document: Any, config: Any, chat_template: str | None = None) -> Tokenizer:
    """The tokenizer that the parsed files describe."""
    document, config = fields.table(document, "the file"), fields.table(config, fields.CONFIG)
    model = fields.table(document.get("model"), "model")
    made = _made(document, config, model, added_tokens(document, config), chat_template)
    _check_numbering(document, model)
    return made


def _made(
    document: dict[str, Any],
    config: dict[str, Any],
    model: dict[str, Any],
    added: list[AddedToken],
    chat_template: str | None,
) -> Tokenizer:
    parts = {part: _writable(document[part], part) for part in fields.PARTS if part in document}
    roles = roles_of(document, config, added, chat_template)
    if model.get("type") == "WordLevel":
        from llmanac.tokenizers.hf import word

        return word.from_model(model, document=parts, added=added, **roles)
    if model.get("type") == "Unigram":
        from llmanac.tokenizers.hf import unigram

        return unigram.from_document(document, added, **roles)
    if model.get("type") == "WordPiece":
        from llmanac.tokenizers.hf import write

        return write.from_model(document, added, **roles)
    _refuse_unsupported(model)
    if not is_byte_level(document):
        from llmanac.tokenizers.hf import character_bpe

        entries, _ = fields.vocabulary_entries(model, added, lambda text: text.encode("utf-8", "replace"))
        found, unknown = _merges(model, entries), _unknown(model, entries, added)
        return character_bpe.from_model(document, entries, found, unknown, added, **roles)
    if fields.switch_of(model, "byte_fallback", "model"):
        raise TokenizerError("model.byte_fallback: is not supported beside a ByteLevel step, whose letters are bytes")
    tokens, ids = _vocabulary(model, added)
    steps, prefix_space = split_steps(document.get("pre_tokenizer"))
    check_decoder(document.get("decoder"))
    if fields.switch_of(model, "fuse_unk", "model") and model.get("unk_token"):
        raise TokenizerError("model.fuse_unk: is not supported beside a ByteLevel step; set it to false")
    odd = {text for text, id in ids.items() if (tokens[id] if id < len(tokens) else read(text)) is None}
    merges, whole_pieces = _merges(model, ids, odd), fields.switch_of(model, "ignore_merges", "model")
    return (UTF8 if _is_bytes_only(tokens, merges, whole_pieces) else BPE)(
        tokens=tokens,
        merges=merges,
        splitter=Splitter(steps),
        compose_nfc=wants_nfc(document.get("normalizer")),
        prefix_space=prefix_space,
        whole_pieces=whole_pieces,
        unknown=_unknown(model, ids, added),
        document=parts,
        added=added,
        **roles,
    )


def _is_bytes_only(tokens: Sequence[bytes | None], merges: np.ndarray, whole_pieces: bool) -> bool:
    """Whether every byte is a token, and there is no way to make a longer one."""
    single = {data for data in tokens if data is not None and len(data) == 1}
    return merges.shape[1] == 0 and len(single) == 256 and not whole_pieces


def roles_of(
    document: dict[str, Any], config: dict[str, Any], added: list[AddedToken], chat_template: str | None
) -> dict[str, Any]:
    """What every kind of model takes from the files in the same way: bos, eos, pad, adds_bos, the chat template."""
    known = {token.text for token in added}
    named = {role: fields.content(config.get(f"{role}_token")) for role in ROLES}
    roles = {role: text if text in known else None for role, text in named.items()}
    adds_bos = _adds_bos(document.get("post_processor"), config, roles["bos"])
    return {"adds_bos": adds_bos, "chat_template": chat_template, "named": fields.named_tokens(config), **roles}


def _writable(value: Any, where: str) -> Any:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except ValueError:  # a surrogate is one too
        raise TokenizerError(f"{where}: holds a surrogate, NaN or infinity, which no JSON file may") from None
    return value


def _refuse_unsupported(model: Mapping[str, Any]) -> None:
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    if kind != "BPE":
        raise TokenizerError(
            f"model.type: {kind!r} is not supported, only 'BPE', 'WordLevel', 'WordPiece' and 'Unigram'"
        )
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise TokenizerError(f"model.{key}: {model[key]!r} is not supported")


def _vocabulary(model: Mapping[str, Any], added: Sequence[AddedToken]) -> tuple[list[bytes | None], dict[str, int]]:
    """`(bytes of each id, id of each entry as the file writes it)`."""
    vocab, entries = fields.vocabulary_entries(model, added, read)
    given = {token.id: token.text for token in added}
    # An added token may have its entry beyond all others, and ids may be missing there (cl100k has such gaps).
    size = 1 + max((id for id, text in entries.items() if given.get(id) != text), default=-1)
    if size > len(vocab) + len(given):
        raise TokenizerError(f"model.vocab: {len(vocab)} entries, but ids up to {size - 1}; some have no entry")
    missing = next((id for id in range(size) if id not in entries and id not in given), None)
    if missing is not None:
        raise TokenizerError(f"model.vocab: no entry has the id {missing}, but there are ids up to {size - 1}")
    tokens: list[bytes | None] = [None] * size
    for (id, text), data in zip(entries.items(), read_all(entries.values()), strict=True):
        if id >= size:
            continue
        tokens[id] = data
        if data is None and given.get(id) != text:
            raise TokenizerError(f"model.vocab: {text!r} (id {id}) is not written in the byte-level alphabet")
    return tokens, vocab


def _unknown(model: Mapping[str, Any], ids: Mapping[str, int], added: list[AddedToken]) -> int | None:
    text = model.get("unk_token")
    if text is None or text == "":
        return None
    if not isinstance(text, str):
        raise TokenizerError(f"model.unk_token: expected text, got {type(text).__name__}")
    known = {token.text: token.id for token in added} | dict(ids)
    if text not in known:
        raise TokenizerError(f"model.unk_token: {text!r} is not in the vocabulary")
    return known[text]


def _merges(model: Mapping[str, Any], ids: Mapping[str, int], odd: Collection[str] = ()) -> np.ndarray:
    """(3, merges): ids of left, right and merged; `odd` are entries that are not written in the byte-level alphabet."""
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise TokenizerError("model.merges: expected a list")

    lefts, rights = [], []
    try:  # a vocabulary has 100,000; what is wrong with one is left to `_check_merges` to say
        for merge in merges:
            left, right = merge.split(" ") if isinstance(merge, str) else list.copy(merge)
            lefts.append(left)
            rights.append(right)
        parts = (lefts, rights, map(operator.add, lefts, rights))
        out = np.array([np.fromiter(map(ids.__getitem__, of), np.int32, len(merges)) for of in parts])
    except (TypeError, ValueError, KeyError):
        out = np.empty((3, 0), np.int32)
    if out.shape[1] < len(merges) or odd:
        _check_merges(merges, ids, odd)
    return out


def _check_merges(merges: Sequence[Any], ids: Mapping[str, int], odd: Collection[str]) -> None:
    for rank, merge in enumerate(merges):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise TokenizerError(f"model.merges[{rank}]: expected two tokens, got {str(merge)[:60]!r}")
        left, right = pair
        for part in (left, right, left + right):
            if part not in ids:
                raise TokenizerError(f"model.merges[{rank}]: {left!r} + {right!r}: {part!r} is not in the vocabulary")
            if part in odd:
                raise TokenizerError(f"model.merges[{rank}]: {part!r} is not written in the byte-level alphabet")


def added_tokens(document: Mapping[str, Any], config: Mapping[str, Any]) -> list[AddedToken]:
    found: dict[int, AddedToken] = {}
    items = fields.items_of(document.get("added_tokens"), "added_tokens")
    listed = [(f"added_tokens[{i}]", token) for i, token in enumerate(items)]
    if not listed:  # older folders keep them in the configuration only
        where = f"{fields.CONFIG}: added_tokens_decoder"
        older = fields.table(config.get("added_tokens_decoder") or {}, where)
        listed = [(f"{where}.{k}", {"id": k, **fields.table(v, f"{where}.{k}")}) for k, v in older.items()]
    for where, item in listed:
        token = fields.table(item, where)
        id, content = fields.id_of(token.get("id")), token.get("content")
        if id is None or not isinstance(content, str):
            raise TokenizerError(f"{where}: needs an `id` and a `content`, got {str(item)[:60]}")
        if id in found and found[id].text != content:
            raise TokenizerError(f"{where}: {found[id].text!r} and {content!r} both have the id {id}")
        found[id] = AddedToken(id=id, text=content, **fields.flags_of(token, where))
    return list(found.values())


def _check_numbering(document: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Refuse an added token whose id is not the one that it gets: the vocabulary's, or the next one in list order.

    Hugging Face's reader numbers them so, whatever the file says.
    """
    vocab = model.get("vocab")
    if isinstance(vocab, Mapping):
        ids = dict(vocab)
    elif isinstance(vocab, list):
        ids = {
            item[0]: id for id, item in enumerate(vocab) if isinstance(item, list) and item and isinstance(item[0], str)
        }
    else:
        return
    size = len(vocab)
    for i, token in enumerate(fields.items_of(document.get("added_tokens"), "added_tokens")):
        text = token.get("content") if isinstance(token, Mapping) else None
        if not isinstance(text, str):
            continue
        if text not in ids:
            ids[text] = size
            size += 1
        if fields.id_of(token.get("id")) not in (ids[text], None):
            raise TokenizerError(
                f"added_tokens[{i}]: {text!r} has the id {token['id']}, but it is number {ids[text]} by the vocabulary "
                "and the order of the list, which is what readers go by"
            )


def _adds_bos(processor: Any, config: Mapping[str, Any], bos: str | None) -> bool:
    if bos is None:
        return False
    if isinstance(config.get("add_bos_token"), bool):
        return bool(config["add_bos_token"])
    steps = fields.steps_of(processor, "post_processor", "processors")
    singles = [node.get("single") for node in steps if node.get("type") == "TemplateProcessing"]
    firsts = [item for single in singles for item in fields.items_of(single, "post_processor.single")[:1]]
    tokens = [first.get("SpecialToken") for first in firsts if isinstance(first, Mapping)]
    return any(isinstance(token, Mapping) and token.get("id") == bos for token in tokens)


def template_of(config: Any) -> str | None:
    template = config.get("chat_template") if isinstance(config, Mapping) else None
    if isinstance(template, list):  # several by name
        texts = {str(item.get("name")): item.get("template") for item in template if isinstance(item, Mapping)}
        template = chosen(texts.get("default"), texts.get("tool_use"))
    return _writable(template, "chat_template") if isinstance(template, str) else None
