"""Writing `tokenizer.json` and `tokenizer_config.json`; each is complete or absent.

For a SentencePiece model `tokenizer.json` says the same as the `.model`, as far as the format can, for other readers;
the configuration names the `.model` as the file that decides.

WordPiece (BERT): the longest piece that the rest of a word begins with, again and again; read from files.

A piece that does not begin its word is written with a prefix (`##`). A word of more than `longest` characters, and
one with a rest that no piece begins, is the unknown token as a whole. Ids equal those of Hugging Face `tokenizers`.
Schuster & Nakajima 2012; Wu et al. 2016 for the name; Devlin et al. 2019 for the greedy search.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import LlmanacError, TokenizerError
from llmanac.core.files import write_json
from llmanac.tokenizers import _pieces as spm
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._base import ROLES, Tokenizer
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers._byte_level import written
from llmanac.tokenizers._normal import replace_surrogates
from llmanac.tokenizers._normal_tokens import Normalised
from llmanac.tokenizers._unigram import SentencePiece
from llmanac.tokenizers._word import WordLevel
from llmanac.tokenizers.hf import fields
from llmanac.tokenizers.hf.bert import BertNormalizer, words
from llmanac.tokenizers.hf.character_bpe import CharacterBPE
from llmanac.tokenizers.hf.fields import CONFIG, DECIDES, DOCUMENT, PARTS
from llmanac.tokenizers.hf.unigram import UnigramJson
from llmanac.tokenizers.hf.word import PRE_TOKENIZERS

SPARE_IDS = 1024  # ids without an entry that a vocabulary may have, so that a huge one cannot fill the memory
MOST_WORDS, LONG = 1 << 17, 64  # words whose ids are remembered, and characters of the longest of them
MOST_CHARACTERS = 1_000  # of a word, since the search takes the square of it


class WordPiece(UnigramJson):
    """A WordPiece model as `tokenizers` runs it.

    Args:
        entries: the vocabulary, id of each entry.
        unknown: the id of what is unknown.
        prefix: what pieces inside a word are written with.
        longest: characters of the longest word that is cut.
        **parts: document, added tokens and roles, as `UnigramJson` takes them.
    """

    _guarded_tables = ("_starts", "_rests", "_known")

    def __init__(self, entries: Mapping[str, int], unknown: int, *, prefix: str, longest: int, **parts: Any) -> None:
        vocab = [("", 0.0)] * (1 + max(entries.values()))
        for text, id in entries.items():
            vocab[id] = (text, 0.0)
        super().__init__(vocab, unknown, False, **parts)
        self.entries, self.prefix, self.longest, self.unknown_id = dict(entries), prefix, longest, unknown
        before = fields.steps_of(self.document.get("normalizer"), "normalizer", "normalizers")
        cuts = fields.steps_of(self.document.get("pre_tokenizer"), "pre_tokenizer", "pretokenizers")
        usual = [step.get("type") for step in (*before, *cuts)] == ["BertNormalizer", "BertPreTokenizer"]
        self._bert = BertNormalizer(before[0], "normalizer") if usual else None

    def _vocabulary(self) -> list[bytes | None]:
        table = super()._vocabulary()
        added = {token.id for token in self.added.tokens}
        return [None if data == b"" and id not in added else data for id, data in enumerate(table)]

    @cached_property
    def _starts(self) -> dict[str, int]:
        """The entries that plain text may become: control tokens are not among them."""
        return {text: id for text, id in self.entries.items() if id not in self._guarded_ids}

    @cached_property
    def _rests(self) -> dict[str, int]:
        """What may continue a word, without the prefix."""
        cut = len(self.prefix)
        return {text[cut:]: id for text, id in self._starts.items() if text.startswith(self.prefix)}

    @cached_property
    def _most(self) -> int:
        return max(map(len, self.entries))

    @cached_property
    def _known(self) -> _Known:
        return _Known(self)

    def forget_words(self) -> None:
        """Empty the word cache."""
        self.__dict__.pop("_known", None)

    def pieces(self, word: str) -> list[tuple[int, int, int]]:
        """`(id, first character, last + 1)` of each piece of a word."""
        size, start, table = len(word), 0, self._starts
        whole = [(self.unknown_id or 0, 0, size)]
        if size > self.longest:
            return whole
        found: list[tuple[int, int, int]] = []
        while start < size:
            for stop in range(min(size, start + self._most), start, -1):
                id = table.get(word[start:stop])
                if id is not None:
                    break
            else:
                return whole
            found.append((id, start, stop))
            start, table = stop, self._rests
        return found

    # -------------------------------------------------------------------------------- encoding
    def _words(self, text: str, first: bool) -> list[str]:
        if self._bert is None or isinstance(text, Normalised):
            return super()._words(text, first)
        return words(self._bert.bare(replace_surrogates(text)[0]), bool(self._bert.chinese))

    def _encode_words(self, words: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
        known = self._known
        found = [list(chain.from_iterable([known[word] for word in group])) for group in words]
        ends = np.cumsum([len(ids) for ids in found], dtype=np.int64)
        return np.array(list(chain.from_iterable(found)), np.int32), ends

    def _placed(self, text: str, first: bool) -> tuple[np.ndarray, list[tuple[int, int]]]:
        clean, places = self._normal_form(text)
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for word, where in self._split_words(clean, first):
            for id, start, stop in self.pieces(word):
                ids.append(id)
                spans.append((int(where[start]), int(where[stop])))
        if places is not None:
            # a stretch that is decomposed is placed as one
            spans = [(int(places[a]), max(int(places[a]) + 1, int(places[b]))) for a, b in spans]
        return np.array(ids, np.int32), spans

    def sample(self, text: str, *, seed: int, **choices: Any) -> list[int]:
        """Raises TokenizerError: there is one segmentation."""
        return Tokenizer.sample(self, text, seed=seed, **choices)

    # -------------------------------------------------------------------------------- identity
    def _identity(self) -> Any:
        around = [self.document.get(part) for part in ("normalizer", "pre_tokenizer")]
        return ["wordpiece", sorted(self.entries.items()), self.unknown_id, self.prefix, self.longest, around]


class _Known(dict[str, tuple[int, ...]]):
    """Word -> ids of its pieces, remembered for the short ones."""

    def __init__(self, tokenizer: WordPiece) -> None:
        super().__init__()
        self._pieces = tokenizer.pieces

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(id for id, _, _ in self._pieces(word))
        if len(word) <= LONG:
            if len(self) >= MOST_WORDS:
                self.clear()
            self[word] = ids
        return ids


def from_model(document: Mapping[str, Any], added: Sequence[AddedToken], **roles: Any) -> WordPiece:
    """The tokenizer of a parsed `tokenizer.json`.

    Raises:
        TokenizerError: what is broken in it, or what it asks for and this package cannot do.
    """
    model = document["model"]
    vocab, _ = fields.vocabulary_entries(model, added, lambda text: text.encode("utf-8", "replace"))
    for text in vocab:
        fields.require_text(text, f"model.vocab: {text[:40]!r}")
    if max(vocab.values()) >= len(vocab) + 2 * len(added) + SPARE_IDS:
        raise TokenizerError(f"model.vocab: {len(vocab)} entries, but ids up to {max(vocab.values())}; leave no gaps")
    unknown, prefix = model.get("unk_token", "[UNK]"), model.get("continuing_subword_prefix", "##")
    longest = model.get("max_input_chars_per_word", 100)
    if not isinstance(unknown, str) or unknown not in vocab:
        raise TokenizerError(f"model.unk_token: {str(unknown)[:40]!r} is not in the vocabulary")
    if not isinstance(prefix, str):
        raise TokenizerError(f"model.continuing_subword_prefix: expected text, got {repr(prefix)[:40]}")
    if type(longest) is not int or not 0 <= longest <= MOST_CHARACTERS:
        raise TokenizerError(
            f"model.max_input_chars_per_word: expected a number up to {MOST_CHARACTERS:,}, got {repr(longest)[:40]}"
        )
    parts = {part: document.get(part) for part in fields.PARTS}
    return WordPiece(vocab, vocab[unknown], prefix=prefix, longest=longest, document=parts, added=added, **roles)


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
    config |= tokenizer.named | {f"{role}_token": settings[role] for role in ROLES if settings[role] is not None}
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
