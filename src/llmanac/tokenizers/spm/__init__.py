"""SentencePiece's `.model` files."""

from pathlib import Path

MODEL = "tokenizer.model"
KNOWN = (MODEL, "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model")


def model_in(folder: Path) -> Path | None:
    """The `.model` file of a folder that has one under a usual name."""
    return next((folder / name for name in KNOWN if (folder / name).is_file()), None)
