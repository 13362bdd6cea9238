"""The files of a SentencePiece tokenizer: `tokenizer.model` and what Hugging Face's readers find beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmanac.core.errors import TokenizerError
from llmanac.tokenizers import _spm_model as spm
from llmanac.tokenizers._added import AddedToken

if TYPE_CHECKING:
    from llmanac.tokenizers._unigram import SentencePiece

MODEL = "tokenizer.model"
KNOWN = (MODEL, "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model")


def load_model(path: Path) -> SentencePiece:
    """Read a `.model` file, without regard to what lies beside it.

    Raises:
        TokenizerError: the file is broken or asks for what this package cannot do; one sentence.
    """
    from llmanac.tokenizers._unigram import SentencePiece, special_roles

    try:
        model = spm.parse(path.read_bytes())
        added = [AddedToken(id=id, text=p.text) for id, p in enumerate(model.pieces) if p.type == spm.CONTROL]
        return SentencePiece(model, added=added, **special_roles(model))
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror})") from None
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def save(tokenizer: SentencePiece, path: Path) -> None:
    raise NotImplementedError
