"""What a SentencePiece model is: pieces with scores and types, the settings of its trainer, rules for normalising."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmanac.core.errors import TokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE, WORD, CHAR = range(1, 5)
TYPES = {UNIGRAM: "unigram", BPE: "bpe", WORD: "word", CHAR: "char"}
LONGEST_PIECE = 8000  # bytes; the library refuses longer ones too
SPACE = "\u2581"  # how a file writes a space
UNK_SURFACE = " \u2047 "

# number -> (name, default) of the fields of TrainerSpec that decide anything here.
TRAINER: dict[int, tuple[str, Any]] = {
    3: ("model_type", UNIGRAM), 4: ("vocab_size", 8000), 24: ("treat_whitespace_as_suffix", False),
    35: ("byte_fallback", False), 44: ("unk_surface", UNK_SURFACE), 45: ("unk_piece", "<unk>"),
    46: ("bos_piece", "<s>"), 47: ("eos_piece", "</s>"), 48: ("pad_piece", "<pad>"),
}  # fmt: skip
DEFAULTS: dict[str, Any] = dict(TRAINER.values())


@dataclass(frozen=True, slots=True)
class ScoredPiece:
    """One entry of the vocabulary; its id is its place."""

    text: str
    score: float = 0.0
    type: int = NORMAL


@dataclass(frozen=True)
class NormalizerRules:
    """How text is normalised before it is cut (`NormalizerSpec`); `charsmap` is the compiled rule map or empty."""

    name: str = ""
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


@dataclass(frozen=True)
class Model:
    """A model.

    Attributes:
        trainer: settings by their name in `trainer_spec`; `setting` knows the defaults.
        source: the file that the model was read from, empty where there is none; `filed` of its pieces are in it.
    """

    pieces: tuple[ScoredPiece, ...]
    trainer: dict[str, Any]
    rules: NormalizerRules
    denormalizer: NormalizerRules | None = None
    source: bytes = field(default=b"", repr=False)
    filed: int = 0

    def setting(self, name: str) -> Any:
        """A setting of the trainer that is named in `TRAINER`."""
        return self.trainer.get(name, DEFAULTS[name])


def require(condition: bool, where: str, what: str) -> None:
    """Raises TokenizerError with `where: what` unless the condition holds."""
    if not condition:
        raise TokenizerError(f"{where}: {what}")


def byte_of(text: str) -> int:
    """The byte of a piece such as `<0x41>`, or -1."""
    if len(text) == 6 and text.startswith("<0x") and text[5] == ">":
        digits = text[3:5]
        if all(c in "0123456789ABCDEF" for c in digits):
            return int(digits, 16)
    return -1


def validate(model: Model) -> None:
    """Refuse a vocabulary that the library would refuse too, and scores that no comparison can order.

    Raises:
        TokenizerError: one sentence that names the piece.
    """
    kind = model.setting("model_type")
    if kind not in (UNIGRAM, BPE):
        raise TokenizerError(
            f"trainer_spec.model_type: {TYPES.get(kind, kind)!r} is not supported, only unigram and bpe"
        )
    seen: dict[str, int] = {}
    found: set[int] = set()
    unknown = -1
    for id, piece in enumerate(model.pieces):
        text = piece.text
        if text == "":
            raise TokenizerError(f"piece {id}: is empty")
        if text == "\0" and piece.type == UNUSED:  # how the library fills up a vocabulary
            continue
        if "\0" in text:
            raise TokenizerError(f"piece {id}: {text[:40]!r} holds a NUL character")
        if 4 * len(text) >= LONGEST_PIECE and len(text.encode()) >= LONGEST_PIECE:
            raise TokenizerError(f"piece {id}: is 8000 bytes or more")
        if text in seen:
            raise TokenizerError(f"pieces {seen[text]} and {id}: both are {text[:40]!r}")
        seen[text] = id
        if not math.isfinite(piece.score):
            raise TokenizerError(f"piece {id} ({text[:40]!r}): its score is {piece.score}, no finite number")
        if piece.type == UNKNOWN:
            require(unknown < 0, f"pieces {unknown} and {id}", "both stand for what is unknown; there must be one")
            unknown = id
        elif piece.type == BYTE:
            require(model.setting("byte_fallback"), f"piece {id} ({text})", "is a byte, but byte_fallback is off")
            require(
                byte_of(text) >= 0,
                f"piece {id}",
                f"{text[:40]!r} is marked as a byte, which is written <0x00> to <0xFF>",
            )
            found.add(byte_of(text))
    require(unknown >= 0, "the file", "has no piece of type UNKNOWN (<unk>), which every model needs")
    if model.setting("byte_fallback") and len(found) < 256:
        missing = min(set(range(256)) - found)
        raise TokenizerError(f"byte_fallback is on, but there is no piece for the byte <0x{missing:02X}>")


def extended(model: Model, pieces: Sequence[ScoredPiece]) -> Model:
    """The model with more pieces behind its own; everything else stays as it is.

    Raises:
        TokenizerError: the vocabulary is one that no reader accepts.
    """
    every = (*model.pieces, *pieces)
    made = replace(model, pieces=every, trainer=model.trainer | {"vocab_size": len(every)})
    validate(made)
    return made
