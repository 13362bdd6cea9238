"""The two ways to a tokenizer: `load_tokenizer` from files, `train_tokenizer` from text. `save` writes files."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llmanac.core import spec
from llmanac.core.errors import DataError, TokenizerError
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers._files import STRETCH, corpus, texts_of
from llmanac.tokenizers._files import stretches as stretches
from llmanac.tokenizers._mixture import Mixture, Unit
from llmanac.tokenizers._reachable import unreachable as unreachable


def load_tokenizer(
    path: str | Path, *, pattern: str | None = None, special_tokens: Mapping[str, int] | None = None
) -> Tokenizer:
    """Read a tokenizer.

    Args:
        path: a run's folder, or one with a `tokenizer.json` or a SentencePiece `.model`, such a file itself, a `.gguf`
            file, a folder with BERT's `vocab.txt`, or a `.tiktoken` file, gzipped or not. Where a folder has both of
            the first, its `tokenizer.json` counts, unless the `.model` is what this package saved.
        pattern, special_tokens: for `.tiktoken` files that are not one of tiktoken's own, which say neither.

    Raises:
        TokenizerError: no such file, a broken file, or one that asks for what this package cannot do.
    """
    from llmanac.tokenizers import spm
    from llmanac.tokenizers.hf import document
    from llmanac.tokenizers.hf.fields import CONFIG, DECIDES, DOCUMENT, table

    path = Path(path)
    if (path / "run.json").is_file() and (path / "tokenizer").is_dir():
        path = path / "tokenizer"
    is_folder = path.is_dir()
    if is_folder:
        found = path / DOCUMENT if (path / DOCUMENT).is_file() else spm.model_in(path)
        if found is None:
            from llmanac.tokenizers.hf import byt5, vocabulary

            if byt5.is_byt5(path):
                return byt5.load(path)
            if (path / vocabulary.VOCABULARY).is_file():
                return vocabulary.load(path)
            raise TokenizerError(f"{path}: has no tokenizer.json, no tokenizer.model and no vocab.txt")
        path = found
    if not path.is_file():
        raise TokenizerError(f"{path}: no such file or folder")
    if ".tiktoken" in path.suffixes:
        from llmanac.tokenizers import _tiktoken

        return _tiktoken.load(path, pattern, special_tokens)
    if pattern is not None or special_tokens is not None:
        raise TokenizerError(f"{path}: pattern and special_tokens are for .tiktoken files; this one has its own")
    if path.suffix == ".gguf":
        from llmanac.tokenizers import gguf

        return gguf.load(path)
    if path.suffix not in (".model", ".json"):
        raise TokenizerError(f"{path}: expected a folder, a tokenizer.json, a .model, a .gguf or a .tiktoken file")
    model = path if path.suffix == ".model" else None
    config, template = ({}, None) if model is not None and not is_folder else document.beside(path)
    if model is None:
        decides = config.get(DECIDES) if isinstance(config, Mapping) else None
        if isinstance(decides, str) and decides and Path(decides).name == decides:
            model = path.with_name(decides)
        if model is None or not model.is_file():
            return document.load(path, config, template)
    from llmanac.tokenizers.spm import files

    return files.load(model, table(config, str(path.with_name(CONFIG))), template)


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer's files into a folder; a SentencePiece model has a `.model`, which may be the path itself."""
    from llmanac.tokenizers._unigram import SentencePiece
    from llmanac.tokenizers.hf.unigram import UnigramJson
    from llmanac.tokenizers.hf.write import write
    from llmanac.tokenizers.spm import MODEL, files

    if isinstance(tokenizer, SentencePiece):
        files.save(tokenizer, path if path.suffix == ".model" else path / MODEL)
        if path.suffix == ".model":
            return
    elif path.suffix == ".model" and isinstance(tokenizer, UnigramJson):
        raise TokenizerError(f"{path}: a tokenizer read from a tokenizer.json cannot be written as a .model")
    write(tokenizer, path, MODEL)


def train_tokenizer(
    name: str,
    files_or_texts: str | Path | Iterable[str | Path] | Mapping[str, Any],
    *,
    weights: Mapping[str, float] | None = None,
    alpha: float | None = None,
    unit: Unit = "bytes",
    total: int | None = None,
    **choices: Any,
) -> Tokenizer:
    """Learn a tokenizer: `train_tokenizer("bpe", "corpus.txt", vocab_size=8192, pattern="gpt4")`, or with a mixture of
    languages or domains, `train_tokenizer("bpe", {"en": "en.txt", "de": "de.txt"}, alpha=0.3)`.

    Args:
        name: a tokenizer of `llmanac list tokenizer`.
        files_or_texts: the path of a UTF-8 file or of a folder of `.txt` files, or several of them, or an iterable of
            texts. A list of strings is taken for paths only if all of them are existing files. Or such a thing for
            each group by its name.
        weights, alpha, unit, total: how much of each group is trained on; see `_mixture.Mixture`.
        **choices: fields of the method's Spec.

    Raises:
        SpecError: an unknown name or choice. DataError: a file that is missing, empty or not UTF-8; no text at all.
    """
    if isinstance(files_or_texts, Mapping):
        made = spec.make_method("tokenizer", {"name": name, **choices}, f"tokenizer/{name}")
        return made.train(mixture(files_or_texts, weights=weights, alpha=alpha, unit=unit, total=total))
    for field, value in (("weights", weights), ("alpha", alpha), ("total", total)):
        if value is not None:  # the method may have a choice of that name
            choices[field] = value
    made = spec.make_method("tokenizer", {"name": name, **choices}, f"tokenizer/{name}")
    return made.train(corpus(files_or_texts))


def mixture(groups: Mapping[str, Any], **choices: Any) -> Mixture:
    """Texts or files by group as one `Mixture`; `choices` are its own.

    A file is dealt out in stretches of about four kilobytes, so that one large file can be taken 0.4 or 2.7 times. An
    iterator is read into memory, since a mixture is read twice.
    """
    kept = {name: list(found) if isinstance(found, Iterator) else found for name, found in groups.items()}

    def labelled() -> Iterator[tuple[str, str]]:
        for name, found in kept.items():
            for text in texts_of(found, STRETCH):
                yield name, text

    for name, found in kept.items():
        if next((text for text in texts_of(found, STRETCH) if text), None) is None:
            raise DataError(f"mixture: the group {name!r} has no text")
    return Mixture(labelled, **choices)


def extend(tokenizer: Tokenizer, files_or_texts: str | Path | Iterable[str | Path], extra: int) -> Tokenizer:
    """The tokenizer with up to `extra` tokens more, learned from new text; every old id keeps its token.

    An old text's encoding changes only where neighbouring tokens of it are one of the new ones. A model that is to go
    on with it needs as many rows more: `models.resize.resize_embeddings`.

    Args:
        files_or_texts: as `train_tokenizer` takes them.

    Raises:
        TokenizerError: the tokenizer cannot learn, or `extra` is no number of tokens. DataError: no text.
    """
    if type(extra) is not int:
        raise TokenizerError(f"extend: extra is {extra!r}, not a number of tokens")
    return tokenizer.extended(texts_of(files_or_texts), extra)
