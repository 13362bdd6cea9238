"""What every tokenizer offers: ids and back, offsets, special tokens that user text cannot forge, chats, files."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import TokenizerError, nearest
from llmanac.kernels.listed import listed
from llmanac.tokenizers._added import AddedToken, AddedTokens, TextPart
from llmanac.tokenizers._checks import id_list, require_texts
from llmanac.tokenizers._groups import encoded
from llmanac.tokenizers._normal import Placed, replace_surrogates
from llmanac.tokenizers._template import Framed
from llmanac.tokenizers.chat.template import NO_TEMPLATE, ChatTemplate, Rendered, UnfinishedMark

Special = Literal["never", "all"] | frozenset[str]
PlainEncoder = Callable[[Sequence[str]], list[np.ndarray]]
MOST_IDS = 1 << 30
ROLES = ("bos", "eos", "pad")
CHUNK = 1 << 20  # characters of text that are encoded at a time: what a processor's own cache holds


class Tokenizer(Framed):
    """Base of all tokenizers; a subclass encodes plain text (`_encode_plain`) and knows its tokens (`_vocabulary`).

    Attributes:
        vocab_size: one more than the highest id.
        special_tokens: text -> id. In text given to `encode` they are plain text unless `special` names them.
        bos_id, eos_id, pad_id: ids that begin a text, end it, and fill a batch; None where there is none.
        adds_bos: whether this tokenizer's texts begin with `bos_id` by convention (`encode` itself never adds it).
        chat_template: Jinja source, rendered in a helper process (`chat`); None where there is none.
        named: texts of further tokens by their names in the configuration (`mask_token`), which templates may read.
        unknown_id: the id of everything that the vocabulary lacks; None where nothing is ever unknown.
        lossless: whether `decode(encode(text)) == text` for every text (half surrogate pairs apart).
        separator: what `decode` puts between two tokens.
    """

    unknown_id: int | None = None
    lossless: bool = True
    separator: bytes = b""
    merges: Any = None  # (3, merges) ids of left, right and both, where it merges
    _threads_help = False  # whether `_encode_batch` may be called, and gains, in several threads
    _guarded_tables: tuple[str, ...] = ()  # cached properties that depend on `_guarded_ids`

    def __init__(
        self,
        *,
        added: Sequence[AddedToken] = (),
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        adds_bos: bool = False,
        chat_template: str | None = None,
        named: Mapping[str, str] | None = None,
    ) -> None:
        self.added = AddedTokens(added)
        self.special_tokens: dict[str, int] = {token.text: token.id for token in added if token.special}
        self._special_ids = self._guarded_ids = frozenset(self.special_tokens.values())  # plain text never becomes one
        ids: dict[str | None, int] = {token.text: token.id for token in added}  # readers and Specs name no other role
        self.bos_id, self.eos_id, self.pad_id = ids.get(bos), ids.get(eos), ids.get(pad)
        self.adds_bos, self.chat_template = adds_bos and self.bos_id is not None, chat_template
        self.named = dict(named or {})

    def _settings(self) -> dict[str, Any]:
        """The added tokens, roles and chat template, as the constructor takes them."""
        roles = {role: self._token_text(getattr(self, f"{role}_id")) for role in ROLES} | {"named": self.named}
        return {"added": self.added.tokens, "adds_bos": self.adds_bos, "chat_template": self.chat_template, **roles}

    # -------------------------------------------------------------------------------- what a subclass must provide
    vocab_size: int

    def _vocabulary(self) -> list[bytes | None]:
        """The bytes of each id; None for an id that is not used."""
        raise NotImplementedError

    def _encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """`(ids, where the ids of each text end)` of texts none of which holds a token to be matched."""
        raise NotImplementedError

    def _normal_form(self, text: str) -> Placed:
        """The text as it is split, and where each of its characters starts in `text` (None: same place)."""
        return replace_surrogates(text)

    def _identity(self) -> Any:
        """JSON data that decides which ids come out."""
        raise NotImplementedError

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, as Hugging Face reads them.

        A SentencePiece model gets a `tokenizer.model` too, or that file alone where the path ends in `.model`.
        """
        from llmanac.tokenizers import save_tokenizer

        save_tokenizer(self, folder)

    # -------------------------------------------------------------------------------- encoding
    def encode(self, text: str, *, special: Special = "never") -> list[int]:
        """Token ids of a text. No token is added.

        Args:
            special: which special tokens written in the text become their id: none, all, or those named.

        Raises:
            TokenizerError: `special` names an unknown token, or the vocabulary lacks a byte of the text.
        """
        return listed(self._encode(text, special), self.vocab_size)

    def encode_array(self, text: str) -> np.ndarray:
        """(tokens,) int32 ids; special tokens in the text are plain text."""
        return self._encode(text, "never")

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """(tokens,) int32 ids of each text; special tokens in the texts are plain text."""
        require_texts(texts)
        if not self.added.has_plain:
            return self._encode_plain(texts)
        return [self._encode(text, "never") for text in texts]

    def _encode_plain(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, none of which holds a token to be matched."""
        threads = None if self._threads_help else 1
        return encoded(texts, CHUNK, self._cut_after, self._encode_batch, threads)

    def _cut_after(self, text: str, start: int) -> int:
        """A place after `start` at which the text may be cut without a change of ids; its end if none is known."""
        return len(text)

    def _encode_parts(self, parts: Sequence[TextPart]) -> list[np.ndarray]:
        """Ids of each of the stretches of plain text between the added tokens of a text."""
        return self._encode_plain([part.text for part in parts])

    def _encode(self, text: str, special: Special, plainly: PlainEncoder | None = None) -> np.ndarray:
        """Ids of a text; `plainly` encodes the text between its added tokens, if not as usual."""
        require_texts([text])
        reader = self._reader(special)
        if special == "never" and not self.added.has_plain:
            return (plainly or reader._encode_plain)([text])[0]
        parts = self.added.split(text, self._allowed(special), self._normal_form)
        plain = [part for part in parts if part.token is None]
        found = iter(plainly([part.text for part in plain]) if plainly else reader._encode_parts(plain))
        ids = [next(found) if part.token is None else np.array([part.token.id], np.int32) for part in parts]
        return np.concatenate(ids) if ids else np.empty(0, np.int32)

    def _reader(self, special: Special) -> Tokenizer:
        """The tokenizer of plain text: with all special tokens allowed, one whose model may produce them as well."""
        return self._unguarded if special == "all" and self._guards else self

    @cached_property
    def _guards(self) -> bool:
        """Whether the model's vocabulary could produce a special token from plain text, and must not."""
        return False

    @cached_property
    def _unguarded(self) -> Tokenizer:
        made = copy.copy(self)
        made._guarded_ids = frozenset()
        for name in self._guarded_tables:
            made.__dict__.pop(name, None)
        return made

    def _allowed(self, special: Special) -> frozenset[str]:
        if special == "never":
            return frozenset()
        if special == "all":
            return frozenset(self.special_tokens)
        for text in special:
            if text not in self.special_tokens:
                raise TokenizerError(f"special: {text!r} is no special token{nearest(text, self.special_tokens)}")
        return special

    def encode_with_offsets(self, text: str, *, special: Special = "never") -> tuple[list[int], list[tuple[int, int]]]:
        """Ids, and for each the `(start, stop)` characters of `text` that it covers, even in part."""
        require_texts([text])
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for part in self.added.split(text, self._allowed(special), self._normal_form):
            if part.token is not None:
                ids.append(part.token.id)
                offsets.append((part.start, part.stop))
                continue
            found, spans = self._reader(special)._encode_placed(part)
            ids += found.tolist()
            offsets += [(part.place(a), part.place(b)) for a, b in spans]
        return ids, offsets

    def _encode_placed(self, part: TextPart) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Ids of a stretch of plain text, and the characters of it that each covers."""
        [ids] = self._encode_parts([part])
        return ids, self._spans(ids, part.text)

    def _spans(self, ids: np.ndarray, text: str) -> list[tuple[int, int]]:
        """Characters of a plain text that each id covers."""
        clean, places = self._normal_form(text)
        shift = len(self._prefix(clean))
        data = (self._prefix(clean) + clean).encode("utf-8")
        lengths = self._lengths(ids, data)
        stops = np.cumsum(lengths)
        raw = np.frombuffer(data, np.uint8)
        character = np.cumsum((raw & 0xC0) != 0x80) - 1 - shift  # of each byte
        first, last = np.maximum(character[stops - lengths], 0), np.maximum(character[stops - 1] + 1, shift)
        if places is not None:
            first, last = places[first], places[last]
        return list(zip(first.tolist(), last.tolist(), strict=True))

    def _lengths(self, ids: np.ndarray, data: bytes) -> np.ndarray:
        """How many bytes of `data` each id covers."""
        return np.array([len(self._bytes[i] or b"") for i in ids.tolist()], np.int64)

    def _prefix(self, text: str) -> str:
        """What is put before a plain text."""
        return ""

    def sample(self, text: str, *, seed: int, **choices: Any) -> list[int]:
        """Ids of one of the text's segmentations, drawn at random; the same seed draws the same one.

        Special tokens in the text are plain text. A tokenizer that has several segmentations says what it chooses by.

        Raises:
            TokenizerError: this tokenizer has one segmentation only, or does not know a choice.
        """
        raise TokenizerError("sample: this tokenizer has one segmentation of a text; use encode, or train a bpe")

    def extended(self, texts: Iterable[str], extra: int) -> Tokenizer:
        """A tokenizer with up to `extra` further tokens learned from texts; all old ids stay as they are.

        Raises:
            TokenizerError: this tokenizer has nothing to go on from, or a text or number is unusable.
        """
        if extra < 1:
            raise TokenizerError(f"extend: extra is {extra}; ask for one token or more")
        if self.vocab_size + extra > MOST_IDS:
            raise TokenizerError(f"extend: {self.vocab_size} + {extra} ids are more than can be numbered ({MOST_IDS})")
        return self._extended(texts, extra)

    def _extended(self, texts: Iterable[str], extra: int) -> Tokenizer:
        raise TokenizerError("extend: this tokenizer cannot learn further tokens")

    def unknown_rate(self, texts: Iterable[str]) -> float:
        """Fraction of the texts' tokens that are the unknown token; for words, the out-of-vocabulary rate."""
        total = unknown = 0
        for text in texts:
            ids = self.encode_array(text)
            total += len(ids)
            if self.unknown_id is not None:
                unknown += int((ids == self.unknown_id).sum())
        return unknown / total if total else 0.0

    # -------------------------------------------------------------------------------- decoding
    @cached_property
    def _bytes(self) -> list[bytes | None]:
        return self._vocabulary()

    @cached_property
    def _skipped_ids(self) -> frozenset[int]:
        """The ids that `skip_special` leaves out: those that are written as a special token is named."""
        return frozenset(token.id for token in self.added.tokens if self.added.written(token) in self.special_tokens)

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token. Raises TokenizerError for an id outside the vocabulary."""
        if type(id) is not int:
            [id] = id_list([id], "token_bytes")
        found = self._bytes[id] if 0 <= id < len(self._bytes) else None
        if found is None:
            raise TokenizerError(f"token {id}: not in the vocabulary of {self.vocab_size} ids")
        return found

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """The text of the ids; bytes that are not UTF-8 become U+FFFD. Raises TokenizerError for what is no id."""
        numbers = id_list(ids)
        if skip_special:
            numbers = [i for i in numbers if i not in self._skipped_ids]
        table = self._bytes
        try:
            if numbers and min(numbers) < 0:
                raise IndexError
            data = self.separator.join([table[i] for i in numbers])  # type: ignore[misc]
        except (IndexError, TypeError):
            data = self.separator.join(map(self.token_bytes, numbers))  # says which id it was
        return data.decode("utf-8", "replace")

    # -------------------------------------------------------------------------------- chats
    @cached_property
    def _chat(self) -> ChatTemplate:
        if self.chat_template is None:
            raise TokenizerError(NO_TEMPLATE)
        return ChatTemplate(self.chat_template)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "chat_template":
            self.__dict__.pop("_chat", None)
        super().__setattr__(name, value)

    def _token_text(self, id: int | None) -> str | None:
        return next((token.text for token in self.added.tokens if token.id == id), None)

    def _chat_variables(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        roles = {f"{role}_token": self._token_text(getattr(self, f"{role}_id")) for role in ROLES}
        return {**self.named, **{name: text for name, text in roles.items() if text is not None}, **variables}

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False, **variables: Any
    ) -> str:
        """The text of a conversation by the chat template; `variables` (tools, ...) are the template's to read.

        Raises:
            TokenizerError: no template, or the template fails or refuses the messages.
        """
        return self._chat.render(messages, add_generation_prompt, self._chat_variables(variables))

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False, **variables: Any
    ) -> tuple[list[int], list[bool]]:
        """Ids of a conversation, and for each whether the assistant wrote it (its turn's end included).

        Special tokens are those that the template writes: the same text inside a message stays plain text. Where the
        template or the convention (`adds_bos`) begins a text with `bos_id`, there is exactly one.

        Raises:
            TokenizerError: no template, the template fails, or its text does not show where the assistant speaks.
        """
        [(ids, mask)] = self.encode_chats([(messages, add_generation_prompt)], **variables)
        return ids, mask

    def chat_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        continues: bool = False,
        until: float = float("inf"),
        **variables: Any,
    ) -> list[int]:
        """The ids of `encode_chat` without who wrote them, which takes no rendering for each turn.

        Args:
            continues: whether the last message is only begun: the ids end where its text does.
            until: time of `time.monotonic` at which rendering is ended.
        Raises:
            TokenizerError: no template, it fails or is not done in time, or does not show the text to be continued.
        """
        given = self._chat_variables(variables)
        mark, theirs = UnfinishedMark() if continues else None, given.keys() - variables.keys()
        chats = [(messages, add_generation_prompt) if mark is None else (mark.behind(messages), False)]
        [chat] = self._chat.rendered(chats, given, self.special_tokens, roles=theirs, spans=False, until=until)
        return self._encode_rendered(chat if mark is None else mark.cut(chat))[0]

    def encode_chats(
        self, chats: Iterable[tuple[Sequence[Mapping[str, Any]], bool]], **variables: Any
    ) -> Iterator[tuple[list[int], list[bool]]]:
        """`encode_chat` of each pair of messages and `add_generation_prompt`, in order; much faster for many.

        Raises:
            TokenizerError: as `encode_chat`, when it comes to the conversation that fails.
        """
        given = self._chat_variables(variables)
        for chat in self._chat.rendered(chats, given, self.special_tokens, roles=given.keys() - variables.keys()):
            yield self._encode_rendered(chat)

    def _encode_rendered(self, chat: Rendered) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        mask: list[bool] = []
        for part in self.added.split(chat.text, frozenset(self.special_tokens), self._normal_form):
            written = chat.assistant[part.start : part.stop]
            if part.token is not None:
                ids.append(part.token.id)
                mask.append(any(written))
                continue
            text = part.text if chat.restore is None else part.text.translate(chat.restore)
            found = self._encode_plain([text])[0]
            ids += found.tolist()
            if any(written) and not all(written):  # a token that crosses the border is the assistant's
                mask += [any(chat.assistant[part.place(a) : part.place(b)]) for a, b in self._spans(found, text)]
            else:
                mask += [any(written)] * len(found)
        if self.bos_id is not None and self.bos_id != self.eos_id:
            while ids[:2] == [self.bos_id, self.bos_id]:
                ids, mask = ids[1:], mask[1:]
            if self.adds_bos and ids[:1] != [self.bos_id]:
                ids, mask = [self.bos_id, *ids], [False, *mask]
        return ids, mask

    def fingerprint(self) -> str:
        """sha256 (hex) of what decides the ids: vocabulary, merges, splitting, added tokens."""
        data = [self._identity(), [token.as_json() for token in self.added.tokens]]
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
