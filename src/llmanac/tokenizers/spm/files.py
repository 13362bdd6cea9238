"""The files of a SentencePiece tokenizer: `tokenizer.model`, and what Hugging Face's readers find beside it.

`tokenizer.model` decides; `tokenizer.json` says the same for other readers, as far as that format can, and
`tokenizer_config.json` has the special roles, the chat template, and under `sentencepiece_model` which file decides.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmanac.core.errors import LlmanacError, TokenizerError
from llmanac.core.files import read_bytes, write_bytes, write_json
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers.hf.fields import MOST, flags_of, id_of
from llmanac.tokenizers.spm import model as spm

if TYPE_CHECKING:
    from llmanac.tokenizers._unigram import SentencePiece

MODEL = "tokenizer.model"
KNOWN = (MODEL, "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model")
DECIDES = "sentencepiece_model"  # the key in tokenizer_config.json
ROLES = ("bos", "eos", "pad")
FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")


def model_in(folder: Path) -> Path | None:
    """The `.model` file of a folder that has one under a usual name."""
    return next((folder / name for name in KNOWN if (folder / name).is_file()), None)


def load(path: Path, config: Mapping[str, Any] | None = None, chat_template: str | None = None) -> SentencePiece:
    """Read a `.model` file, with roles and further tokens from a parsed `tokenizer_config.json` where there is one.

    Raises:
        TokenizerError: the file is broken or asks for what this package cannot do; one sentence.
    """
    from llmanac.tokenizers._unigram import SentencePiece, special_roles

    data = read_bytes(path, most=MOST, error=TokenizerError)
    try:
        model = spm.parse(data)
        added = [AddedToken(id=id, text=p.text) for id, p in enumerate(model.pieces) if p.type == spm.CONTROL]
        added += _beyond(model, config or {})
        known = {token.text for token in added}
        roles = special_roles(model)
        for role in ROLES:
            named = content((config or {}).get(f"{role}_token"))
            if named in known:
                roles[role] = named
        adds_bos = (config or {}).get("add_bos_token") is True
        return SentencePiece(model, added=added, adds_bos=adds_bos, chat_template=chat_template, **roles)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def content(token: Any) -> str | None:
    """The text of a token that a configuration names, as text or as a table."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _beyond(model: spm.Model, config: Mapping[str, Any]) -> list[AddedToken]:
    """Tokens that a configuration adds behind the model's own ids."""
    table = config.get("added_tokens_decoder")
    out: list[AddedToken] = []
    for key, value in table.items() if isinstance(table, Mapping) else ():
        id, text = id_of(key), content(value)
        where = f"tokenizer_config.json: added_tokens_decoder.{str(key)[:40]}"
        if id is None or text is None or not isinstance(value, Mapping):
            raise TokenizerError(f"{where}: needs an id and a `content`")
        flags = flags_of(value, FLAGS, where)
        if id >= len(model.pieces):
            out.append(AddedToken(id=id, text=text, **flags))
    return out


# ------------------------------------------------------------------------------------------------ writing
def save(tokenizer: SentencePiece, path: Path) -> None:
    """Write the three files into a folder, or the `.model` file alone where the path ends so."""
    data = tokenizer.model.source
    if path.suffix == ".model":
        write_bytes(path, data)
        return
    write_bytes(path / MODEL, data)
    document = _document(tokenizer)
    if document is not None:
        write_json(path / "tokenizer.json", document)
    else:
        try:
            (path / "tokenizer.json").unlink(missing_ok=True)  # of another tokenizer
        except OSError as error:
            raise LlmanacError(f"{path / 'tokenizer.json'}: cannot be removed ({error.strerror})") from None
    write_json(path / "tokenizer_config.json", _config(tokenizer))


def _config(tokenizer: SentencePiece) -> dict[str, Any]:
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {"model_max_length": int(1e30), "add_bos_token": tokenizer.adds_bos, DECIDES: MODEL}
    config["added_tokens_decoder"] = {
        str(token["id"]): {k: v for k, v in token.items() if k != "id"} for token in _added(tokenizer)
    }
    config["unk_token"] = tokenizer.pieces[tokenizer.unknown].text
    for role in ROLES:
        id = getattr(tokenizer, f"{role}_id")
        if id is not None:
            config[f"{role}_token"] = next(token.text for token in tokenizer.added.tokens if token.id == id)
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
    return config


def _added(tokenizer: SentencePiece) -> list[dict[str, Any]]:
    tokens = [token.as_json() for token in tokenizer.added.tokens]
    unknown = tokenizer.unknown
    tokens.append(AddedToken(id=unknown, text=tokenizer.pieces[unknown].text).as_json())
    for id, piece in enumerate(tokenizer.pieces):
        if piece.type == spm.USER_DEFINED:
            tokens.append(AddedToken(id=id, text=piece.text.replace(spm.SPACE, " "), special=False).as_json())
    return sorted(tokens, key=lambda token: token["id"])


def _document(tokenizer: SentencePiece) -> dict[str, Any] | None:
    """The `tokenizer.json`, or None where that format has no form for the model."""
    if tokenizer.normalizer.suffix or tokenizer.model.denormalizer:
        return None
    if any(piece.type == spm.UNUSED for piece in tokenizer.pieces):
        return None
    rules = tokenizer.rules
    changes_ends = rules.add_dummy_prefix or rules.remove_extra_whitespaces
    if changes_ends and any(piece.type == spm.USER_DEFINED for piece in tokenizer.pieces):
        return None  # there such a symbol would cut a text in two, each with ends of its own
    steps: list[dict[str, Any]] = []
    if rules.charsmap:
        data = base64.b64encode(rules.charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": data})
    if rules.remove_extra_whitespaces:
        ends = rf"[ {spm.SPACE}]" if rules.escape_whitespaces else " "  # the library takes its own mark away there, too
        steps.append({"type": "Replace", "pattern": {"Regex": rf"\A +|{ends}+\z"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if rules.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": spm.SPACE if rules.escape_whitespaces else " "})
    decoders: list[dict[str, Any]] = []
    if rules.escape_whitespaces:
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": spm.SPACE})
        decoders.append({"type": "Replace", "pattern": {"String": spm.SPACE}, "content": " "})
    decoders += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if rules.escape_whitespaces and rules.add_dummy_prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": _added(tokenizer),
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None, "pre_tokenizer": None,
        "post_processor": None, "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _unigram(tokenizer) if tokenizer.kind == "unigram" else _bpe(tokenizer),
    }  # fmt: skip


def _unigram(tokenizer: SentencePiece) -> dict[str, Any]:
    vocab = [[piece.text, piece.score] for piece in tokenizer.pieces]
    return {"type": "Unigram", "unk_id": tokenizer.unknown, "vocab": vocab, "byte_fallback": tokenizer.byte_fallback}


def _bpe(tokenizer: SentencePiece) -> dict[str, Any]:
    mergeable = {p.text: id for id, p in enumerate(tokenizer.pieces) if p.type == spm.NORMAL}
    merges = sorted(
        (-tokenizer.pieces[id].score, id, mergeable[text[:i]], text[:i], text[i:])
        for text, id in mergeable.items()
        for i in range(1, len(text))
        if text[:i] in mergeable and text[i:] in mergeable
    )
    return {
        "type": "BPE", "dropout": None, "unk_token": tokenizer.pieces[tokenizer.unknown].text,
        "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
        "byte_fallback": tokenizer.byte_fallback, "ignore_merges": False,
        "vocab": {piece.text: id for id, piece in enumerate(tokenizer.pieces)},
        "merges": [[left, right] for _, _, _, left, right in merges],
    }  # fmt: skip
