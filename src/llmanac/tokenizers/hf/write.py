"""Writing `tokenizer.json` and `tokenizer_config.json`; each is complete or absent.

For a SentencePiece model `tokenizer.json` says the same as the `.model`, as far as the format can, for other readers;
the configuration names the `.model` as the file that decides.
"""

import base64
from pathlib import Path
from typing import Any

from llmanac.core.errors import LlmanacError, TokenizerError
from llmanac.core.files import write_json
from llmanac.tokenizers import _pieces as spm
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._base import ROLES, Tokenizer
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers._byte_level import written
from llmanac.tokenizers._unigram import SentencePiece
from llmanac.tokenizers._word import WordLevel
from llmanac.tokenizers.hf.character_bpe import CharacterBPE
from llmanac.tokenizers.hf.fields import CONFIG, DECIDES, DOCUMENT, PARTS
from llmanac.tokenizers.hf.unigram import UnigramJson
from llmanac.tokenizers.hf.word import PRE_TOKENIZERS
from llmanac.tokenizers.hf.wordpiece import WordPiece

NO_PARTS: dict[str, Any] = dict.fromkeys(PARTS)


def write(tokenizer: Tokenizer, folder: Path, decides: str | None = None) -> None:
    """Write both files; `decides` is the file beside them that decides, where it is not the `tokenizer.json`."""
    if isinstance(tokenizer, SentencePiece):
        added, parts = _sentencepiece_added(tokenizer), _sentencepiece_parts(tokenizer)
    else:
        added, parts = [token.as_json() for token in tokenizer.added.tokens], _parts(tokenizer)
    if parts is not None:
        write_json(folder / DOCUMENT, _document(added, parts))
    else:
        try:
            (folder / DOCUMENT).unlink(missing_ok=True)  # of another tokenizer
        except OSError as error:
            raise LlmanacError(f"{folder / DOCUMENT}: cannot be removed ({error.strerror})") from None
    write_json(folder / CONFIG, _config(tokenizer, added, decides))


def _document(added: list[dict[str, Any]], parts: dict[str, Any]) -> dict[str, Any]:
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts}


def _config(tokenizer: Tokenizer, added: list[dict[str, Any]], decides: str | None) -> dict[str, Any]:
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {"model_max_length": int(1e30), "add_bos_token": tokenizer.adds_bos}
    config["added_tokens_decoder"] = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added}
    if isinstance(tokenizer, SentencePiece):
        config |= {DECIDES: decides, "unk_token": tokenizer.pieces[tokenizer.unknown].text}
    settings = tokenizer._settings()
    config |= {f"{role}_token": settings[role] for role in ROLES if settings[role] is not None}
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template
    return config


def _parts(tokenizer: Tokenizer) -> dict[str, Any]:
    """The model and what is around it."""
    if isinstance(tokenizer, UnigramJson):
        kinds: Any = {CharacterBPE: _character_bpe, WordPiece: _word_pieces}
        model = kinds.get(type(tokenizer), _unigram_json)(tokenizer)
        return NO_PARTS | tokenizer.document | {"model": model}
    if isinstance(tokenizer, WordLevel):
        return (tokenizer.document or _word_parts(tokenizer)) | {"model": _words(tokenizer)}
    if isinstance(tokenizer, BPE):
        return (tokenizer.document or _bpe_parts(tokenizer)) | {"model": _byte_level_bpe(tokenizer)}
    raise TokenizerError(f"save: a tokenizer.json has no form for {type(tokenizer).__name__}")


def _splits(steps: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False} for step in steps]


def _bpe_model(vocab: dict[str, int], merges: list[list[Any]], unknown: str | None, **flags: bool) -> dict[str, Any]:
    """A model of type BPE; flags are `fuse_unk`, `byte_fallback`, `ignore_merges`, off where left out."""
    return {
        "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **flags,
        "vocab": vocab, "merges": merges,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ byte-level BPE
def _byte_level_bpe(tokenizer: BPE) -> dict[str, Any]:
    texts = {token.id: token.text for token in tokenizer.added.tokens}
    spelled = [written(data) if data is not None else texts.get(id) for id, data in enumerate(tokenizer.tokens)]
    for id, text in texts.items():  # a special token of ours is in the vocabulary under its own text
        if id < len(spelled) and spelled[id] is not None and tokenizer.tokens[id] == text.encode("utf-8"):
            spelled[id] = text
    gaps = tokenizer.vocab_size > len(spelled) + sum(id >= len(spelled) for id in texts)
    beyond = {text: id for id, text in texts.items() if gaps and id >= len(spelled)}  # else readers number them anew
    unknown, vocab = None, {text: id for id, text in enumerate(spelled) if text is not None} | beyond
    if tokenizer.unknown_id is not None:
        unknown = texts.get(tokenizer.unknown_id, written(tokenizer.token_bytes(tokenizer.unknown_id)))
    merges = [[spelled[left], spelled[right]] for left, right in tokenizer.merges[:2].T.tolist()]
    return _bpe_model(vocab, merges, unknown, ignore_merges=tokenizer.whole_pieces)


def _bpe_parts(tokenizer: BPE) -> dict[str, Any]:
    """The parts around the model, for a tokenizer that came from no such file."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "normalizer": {"type": "NFC"} if tokenizer.compose_nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*_splits(tokenizer.splitter.steps), byte_level]},
        "post_processor": byte_level | {"use_regex": True},
        "decoder": byte_level | {"use_regex": True},
    }


# ------------------------------------------------------------------------------------------------ words
def _words(tokenizer: WordLevel) -> dict[str, Any]:
    words = {id: data.decode("utf-8") for id, data in enumerate(tokenizer.tokens) if data is not None}
    unknown = "<unk>" if tokenizer.unknown_id is None else words[tokenizer.unknown_id]
    return {"type": "WordLevel", "vocab": {text: id for id, text in words.items()}, "unk_token": unknown}


def _word_parts(tokenizer: WordLevel) -> dict[str, Any]:
    """The parts around the model, for a tokenizer that came from no such file."""
    splitter = tokenizer.splitter
    pre_tokenizer: dict[str, Any] | None = None
    if splitter.dropping:
        pre_tokenizer = {"type": next(kind for kind, name in PRE_TOKENIZERS.items() if name == splitter.dropping)}
    elif splitter.steps:
        pre_tokenizer = {"type": "Sequence", "pretokenizers": _splits(splitter.steps)}
    decoder = {"type": "Fuse"} if tokenizer.separator == b"" else None
    return NO_PARTS | {"pre_tokenizer": pre_tokenizer, "decoder": decoder}


# ------------------------------------------------------------------------------------------------ unigram and BPE read
def _unigram_json(tokenizer: UnigramJson) -> dict[str, Any]:
    vocab = [list(item) for item in tokenizer.vocab]
    return {"type": "Unigram", "unk_id": tokenizer.unknown, "vocab": vocab, "byte_fallback": tokenizer.byte_fallback}


def _word_pieces(tokenizer: WordPiece) -> dict[str, Any]:
    return {
        "type": "WordPiece", "unk_token": tokenizer.vocab[tokenizer.unknown or 0][0],
        "continuing_subword_prefix": tokenizer.prefix, "max_input_chars_per_word": tokenizer.longest,
        "vocab": tokenizer.entries,
    }  # fmt: skip


def _character_bpe(tokenizer: CharacterBPE) -> dict[str, Any]:
    text_of = {token.id: token.text for token in tokenizer.added.tokens}
    text_of |= {id: text for text, id in tokenizer.entries.items()}
    unknown = None if tokenizer.unknown is None else text_of.get(tokenizer.unknown)
    merges = [[text_of[left], text_of[right]] for left, right in tokenizer.merges[:2].T.tolist()]
    return _bpe_model(
        tokenizer.entries, merges, unknown, fuse_unk=tokenizer.fuse_unknown, byte_fallback=tokenizer.byte_fallback,
        ignore_merges=tokenizer.whole_words,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------ SentencePiece models
def _sentencepiece_added(tokenizer: SentencePiece) -> list[dict[str, Any]]:
    tokens = [*tokenizer.added.tokens, AddedToken(id=tokenizer.unknown, text=tokenizer.pieces[tokenizer.unknown].text)]
    for id, piece in enumerate(tokenizer.pieces):
        if piece.type == spm.USER_DEFINED:
            tokens.append(AddedToken(id=id, text=piece.text.replace(spm.SPACE, " "), special=False))
    return [token.as_json() for token in sorted(tokens, key=lambda token: token.id)]


def _sentencepiece_parts(tokenizer: SentencePiece) -> dict[str, Any] | None:
    """The model and what is around it, or None where the format has no form for the model."""
    rules, types = tokenizer.rules, {piece.type for piece in tokenizer.pieces}
    if tokenizer.normalizer.suffix or tokenizer.model.denormalizer or spm.UNUSED in types:
        return None
    if spm.USER_DEFINED in types and (rules.add_dummy_prefix or rules.remove_extra_whitespaces):
        return None  # there such a symbol would cut a text in two, each with ends of its own
    steps: list[dict[str, Any]] = []
    decoders: list[dict[str, Any]] = [{"type": "ByteFallback"}, {"type": "Fuse"}]
    if rules.charsmap:
        data = base64.b64encode(rules.charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": data})
    if rules.remove_extra_whitespaces:
        ends = rf"[ {spm.SPACE}]" if rules.escape_whitespaces else " "  # the library removes its own mark there, too
        steps.append({"type": "Replace", "pattern": {"Regex": rf"\A +|{ends}+\z"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if rules.add_dummy_prefix:
        steps.append({"type": "Prepend", "prepend": spm.SPACE if rules.escape_whitespaces else " "})
    if rules.escape_whitespaces:
        steps.append({"type": "Replace", "pattern": {"String": " "}, "content": spm.SPACE})
        decoders.insert(0, {"type": "Replace", "pattern": {"String": spm.SPACE}, "content": " "})
        if rules.add_dummy_prefix:
            decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return NO_PARTS | {
        "normalizer": {"type": "Sequence", "normalizers": steps} if steps else None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _sentencepiece_unigram(tokenizer) if tokenizer.kind == "unigram" else _sentencepiece_bpe(tokenizer),
    }


def _sentencepiece_unigram(tokenizer: SentencePiece) -> dict[str, Any]:
    vocab = [[piece.text, piece.score] for piece in tokenizer.pieces]
    return {"type": "Unigram", "unk_id": tokenizer.unknown, "vocab": vocab, "byte_fallback": tokenizer.byte_fallback}


def _sentencepiece_bpe(tokenizer: SentencePiece) -> dict[str, Any]:
    mergeable = {p.text: id for id, p in enumerate(tokenizer.pieces) if p.type == spm.NORMAL}
    merges = sorted(
        (-tokenizer.pieces[id].score, id, mergeable[text[:i]], text[:i], text[i:])
        for text, id in mergeable.items()
        for i in range(1, len(text))
        if text[:i] in mergeable and text[i:] in mergeable
    )
    vocab = {piece.text: id for id, piece in enumerate(tokenizer.pieces)}
    unknown = tokenizer.pieces[tokenizer.unknown].text
    pairs: list[list[Any]] = [[left, right] for *_, left, right in merges]
    return _bpe_model(vocab, pairs, unknown, fuse_unk=True, byte_fallback=tokenizer.byte_fallback)
