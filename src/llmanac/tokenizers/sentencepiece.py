"""SentencePiece: raw text, spaces included, cut by a unigram model (Kudo 2018; Kudo, Richardson 2018) or BPE.

Nothing is split into words first, so it needs no knowledge of a language. A **unigram** model gives each piece x a
probability p(x) and a segmentation x1...xn of a text the product of theirs; the text's segmentation is the best one,

    argmax over x1...xn of  sum over i of log p(xi),

found by dynamic programming over the places of the text (Viterbi). Learning starts from the substrings that cover most
of the text, taken from a suffix array, and repeats: EM sets p(x) to how often x is expected to be used over all
segmentations, then the pieces whose loss costs the least likelihood go, until the vocabulary has its size. A **BPE**
model merges the most frequent pair of neighbours instead, over characters rather than bytes. A character that has no
piece is written as its bytes (byte fallback), so nothing is unknown.

Ids: `<unk>` first, then special tokens, user-defined symbols, 256 bytes, and the pieces from best to worst.

With the defaults every text comes back exactly: no rule changes it, no space is added or taken, spaces stay spaces in
the pieces. Any other `normalizer`, `add_dummy_prefix` or `remove_extra_whitespaces` gives the library's usual form,
where a space is written U+2581 and `decode` returns the normalised text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import DataError, SpecError
from llmanac.tokenizers import TokenizerSpec
from llmanac.tokenizers import _pieces as spm
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._counting import bounded_chunks
from llmanac.tokenizers._normal import SURROGATE
from llmanac.tokenizers._roles import BEGINS, ENDS, PADS, usual
from llmanac.tokenizers._spm_normalizer import SentencePieceNormalizer, compile_charsmap
from llmanac.tokenizers._unigram import SentencePiece
from llmanac.tokenizers.chat.template import default_template

CARD = {
    "title": "SentencePiece: unigram and BPE with byte fallback",
    "paper": "Kudo 2018, Subword Regularization, section 3; Kudo, Richardson 2018, SentencePiece",
    "reference": "sentencepiece.SentencePieceProcessor and SentencePieceTrainer",
    "aliases": {"unigram": {"model": "unigram"}, "sentencepiece-bpe": {"model": "bpe"}},
}

UNKNOWN = "<unk>"


@dataclass(frozen=True, kw_only=True)
class Spec(TokenizerSpec):
    """How to learn a SentencePiece model.

    Attributes:
        vocab_size: ids in all: `<unk>`, special and user-defined tokens, bytes, pieces. A small corpus gives fewer.
        model: unigram or bpe.
        normalizer: identity, or the library's nfkc, nmt_nfkc, nfkc_cf, nmt_nfkc_cf (the cf ones fold case too).
        byte_fallback: whether a character without a piece becomes bytes; without it, `<unk>`.
        add_dummy_prefix: put a space before each text, so that a word is the same piece there as elsewhere.
        remove_extra_whitespaces: make runs of spaces one, and take those at both ends away.
        character_coverage: fraction of the text whose characters get a piece each; rarer ones are left to the bytes.
        special_tokens: control tokens, which text never becomes by itself.
        user_defined_symbols: strings that are always one token where a text contains them.
    """

    vocab_size: int = 8192
    model: Literal["unigram", "bpe"] = "unigram"
    normalizer: Literal["identity", "nfkc", "nmt_nfkc", "nfkc_cf", "nmt_nfkc_cf"] = "identity"
    byte_fallback: bool = True
    add_dummy_prefix: bool = False
    remove_extra_whitespaces: bool = False
    character_coverage: float = 0.9995
    user_defined_symbols: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        seen = {UNKNOWN: "the unknown token"}
        if self.byte_fallback:
            seen |= {f"<0x{byte:02X}>": "a byte's piece" for byte in range(256)}
        for name in ("special_tokens", "user_defined_symbols"):
            for i, text in enumerate(getattr(self, name)):
                if not text or "\0" in text or SURROGATE.search(text) or len(text.encode()) >= spm.LONGEST_PIECE:
                    raise SpecError(f"{name}.{i}: {text[:40]!r} is empty, holds a NUL or a surrogate, or is too long")
                if text in seen:
                    raise SpecError(f"{name}.{i}: {text!r} is {seen[text]} already; leave it out")
                seen[text] = f"{name}.{i}"
        if not 0 < self.character_coverage <= 1:
            raise SpecError(f"character_coverage: {self.character_coverage} is no share between 0 and 1")
        least = self._reserved + 2
        if self.vocab_size < least:
            raise SpecError(f"vocab_size: {self.vocab_size} leaves no piece after what is reserved; at least {least}")
        if self.vocab_size >= 1 << 30:
            raise SpecError(f"vocab_size: {self.vocab_size} is more than ids can number ({1 << 30})")

    @property
    def _reserved(self) -> int:
        return 1 + len(self.special_tokens) + len(self.user_defined_symbols) + 256 * self.byte_fallback

    def train(self, texts: Iterable[str]) -> SentencePiece:
        """Learn the pieces from a stream of texts. Memory follows the distinct words.

        Raises:
            DataError: no text at all, or an item that is no text.
        """
        from llmanac.tokenizers import _unigram_train
        from llmanac.tokenizers._spm_rules import rules_of

        squeezed = self.normalizer != "identity" or self.add_dummy_prefix or self.remove_extra_whitespaces
        rules = spm.NormalizerRules(
            name=self.normalizer,
            charsmap=compile_charsmap(rules_of(self.normalizer)),
            add_dummy_prefix=self.add_dummy_prefix,
            remove_extra_whitespaces=self.remove_extra_whitespaces,
            escape_whitespaces=squeezed,
        )
        normalizer = SentencePieceNormalizer(rules, kept=self.user_defined_symbols)
        chunks = bounded_chunks(texts, self._symbols, "tokenizer/sentencepiece")
        words = _unigram_train.gather(normalizer.pack(chunk) for chunk in chunks)
        room = self.vocab_size - self._reserved
        never = "" if squeezed else spm.SPACE  # the library would decode it to a space
        found = words.stretches(self.character_coverage, room, never)
        if not found.alphabet:
            raise DataError("tokenizer/sentencepiece: the texts to learn from are empty")
        if self.model == "bpe":
            from llmanac.tokenizers._spm_extend import learn
        else:
            from llmanac.tokenizers._unigram_train import learn
        learned = learn(found, room)
        return self._build(rules, [(text.replace(" ", spm.SPACE) if squeezed else text, p) for text, p in learned])

    @property
    def _symbols(self) -> tuple[str, ...]:
        return (UNKNOWN, *self.special_tokens, *self.user_defined_symbols)

    def _build(self, rules: spm.NormalizerRules, learned: Sequence[tuple[str, float]]) -> SentencePiece:
        special = self.special_tokens
        pieces = [
            spm.ScoredPiece(UNKNOWN, 0.0, spm.UNKNOWN),
            *(spm.ScoredPiece(text, 0.0, spm.CONTROL) for text in special),
        ]
        pieces += [spm.ScoredPiece(text, 0.0, spm.USER_DEFINED) for text in self.user_defined_symbols]
        if self.byte_fallback:
            pieces += [spm.ScoredPiece(f"<0x{byte:02X}>", 0.0, spm.BYTE) for byte in range(256)]
        taken = {piece.text for piece in pieces}
        pieces += [spm.ScoredPiece(text, float(np.float32(score))) for text, score in learned if text not in taken]
        roles = {
            "bos": self.bos or usual(BEGINS, special),
            "eos": self.eos or usual(ENDS, special),
            "pad": self.pad or usual(PADS, special),
        }
        trainer: dict[str, Any] = {
            "model_type": spm.BPE if self.model == "bpe" else spm.UNIGRAM, "vocab_size": len(pieces),
            "byte_fallback": self.byte_fallback, "character_coverage": self.character_coverage, "unk_id": 0,
            "unk_piece": UNKNOWN, "control_symbols": list(special),
            "user_defined_symbols": list(self.user_defined_symbols),
        }  # fmt: skip
        for role, text in roles.items():
            trainer[f"{role}_id"] = -1 if text is None else 1 + special.index(text)
            if text is not None:
                trainer[f"{role}_piece"] = text
        model = spm.Model(tuple(pieces), trainer, rules)
        spm.validate(model)
        return SentencePiece(
            model,
            added=[AddedToken(id=1 + i, text=text) for i, text in enumerate(special)],
            chat_template=default_template(
                special, eos=roles["eos"], no_roles=(*BEGINS, *ENDS, *PADS, self.bos, self.pad)
            ),
            **roles,
        )
