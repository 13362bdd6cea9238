"""The two ways to a tokenizer: `load_tokenizer` from files, `train_tokenizer` from text. `save` writes files.

tiktoken's vocabulary files: a line `base64(token) rank` each, gzipped or not.

Such a file has no merges, no split pattern and no control tokens. The merges follow from the ranks: each token is made
of the two parts into which the tokens before it cut its bytes. The others belong to the encoding's name.

Tokens that no text is ever encoded to: dead rows of a model's embedding.
"""

import base64
import binascii
import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import spec
from llmanac.core.errors import DataError, TokenizerError
from llmanac.kernels.bpe.encode import merges_of_ranks
from llmanac.kernels.split.words import GIVEN, piece_ends
from llmanac.kernels.text import pack
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers._files import STRETCH, corpus, texts_of
from llmanac.tokenizers._files import stretches as stretches
from llmanac.tokenizers._mixture import Mixture, Unit
from llmanac.tokenizers._word import WordLevel
from llmanac.tokenizers.patterns.splitter import Splitter, pattern_of

NEVER_IN_UTF8 = frozenset(range(0xF5, 0x100)) | {0xC0, 0xC1}


def unreachable(tokenizer: Tokenizer) -> list[int] | None:
    """Ids of the tokens that no text is encoded to, without special tokens; None where the context decides.

    A token is reachable if its own bytes are encoded as this one token and are nothing that a text cannot hold. For a
    byte-level BPE the merges decide that also for parts of characters; elsewhere tokens that are not valid UTF-8 are
    ignored.
    """
    if not isinstance(tokenizer, (BPE, WordLevel)):
        return None
    control = set(tokenizer.special_tokens.values()) | {token.id for token in tokenizer.added.tokens}
    table = [
        (id, data)
        for id, data in enumerate(tokenizer._bytes)
        if data and id not in control and id != tokenizer.unknown_id
    ]
    never = NEVER_IN_UTF8
    if isinstance(tokenizer, BPE):
        never = never | {
            byte for byte, id in enumerate(tokenizer._byte_ids.tolist()) if id in (-1, tokenizer.unknown_id)
        }
    dead = {id for id, data in table if not never.isdisjoint(data)}
    table = [item for item in table if item[0] not in dead]
    whole: list[tuple[int, str]] = []
    for id, data in table:
        try:
            whole.append((id, data.decode("utf-8")))
        except UnicodeDecodeError:
            continue
    if isinstance(tokenizer, BPE):
        dead |= _not_merged(tokenizer, table)
        if tokenizer.splitter.steps:
            whole = [item for item in whole if item[0] not in dead]
            buffer, used, ends = tokenizer.splitter.pack([text for _, text in whole])
            pieces = _pieces(tokenizer, buffer, used, ends, len(whole))
            dead |= {id for (id, _), n in zip(whole, pieces, strict=True) if n > 1}
    else:
        encoded = tokenizer.encode_batch([text for _, text in whole])
        dead |= {id for (id, _), ids in zip(whole, encoded, strict=True) if ids.tolist() != [id]}
    return sorted(dead)


def _not_merged(tokenizer: BPE, table: list[tuple[int, bytes]]) -> set[int]:
    """Ids whose bytes, as one piece, are merged to something else."""
    if not table:
        return set()
    buffer, used = pack([data for _, data in table])
    sizes = np.array([len(data) for _, data in table], np.int64)
    text_ends = np.empty(len(table), np.int64)
    ids = tokenizer._encode_packed(buffer, used, GIVEN, np.cumsum(sizes + 1) - 1, text_ends)
    counts = np.diff(text_ends, prepend=0)
    last = ids[text_ends - 1]
    return {
        id for (id, _), n, found in zip(table, counts.tolist(), last.tolist(), strict=True) if n != 1 or found != id
    }


def _pieces(tokenizer: BPE, buffer: np.ndarray, used: int, ends: np.ndarray, texts: int) -> list[int]:
    """How many pieces each text of a packed buffer is cut into."""
    if tokenizer.splitter.mode != GIVEN:
        ends = piece_ends(buffer, used, *tokenizer.splitter.classes, tokenizer.splitter.mode)
    stops = np.flatnonzero(buffer[:used] == 0xFF)
    return np.diff(np.searchsorted(ends, stops, side="right"), prepend=0).tolist()[:texts]


# What the published encodings are called -> their pattern and control tokens.
_END = {"<|endoftext|>": 50256}
_MIDDLE = {"<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260, "<|endofprompt|>": 100276}
ENCODINGS: dict[str, tuple[str, dict[str, int]]] = {
    "r50k": ("gpt2", _END),
    "p50k": ("gpt2", _END),
    "cl100k": ("gpt4", {"<|endoftext|>": 100257, **_MIDDLE}),
    "o200k": ("o200k", {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
}


def load(path: Path, pattern: str | None = None, special_tokens: Mapping[str, int] | None = None) -> BPE:
    """Read a `.tiktoken` or `.tiktoken.gz` file.

    Args:
        pattern, special_tokens: needed where the file's name does not start with r50k, p50k, cl100k or o200k.

    Raises:
        TokenizerError: a broken line, a token or rank given twice, a gap, a byte without token, no known pattern.
    """
    known = next((value for name, value in ENCODINGS.items() if path.name.startswith(name)), None)
    if pattern is None and known is None:
        raise TokenizerError(f"{path}: its name tells no split pattern; pass pattern= (gpt2, gpt4, llama3, qwen3, …)")
    special = dict(special_tokens if special_tokens is not None else known[1] if known else {})
    try:
        return from_ranks(_read(path), pattern or (known or ("",))[0], special)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def from_ranks(tokens: Sequence[bytes | None], pattern: str, special_tokens: Mapping[str, int]) -> BPE:
    """A tokenizer from the bytes of each rank, a split pattern and the ids of its control tokens."""
    ranked = [rank for rank, data in enumerate(tokens) if data is not None]
    lengths = np.array([len(data or b"") for data in tokens], np.int64)
    letters = np.frombuffer(b"".join([*[data or b"" for data in tokens], bytes(32)]), np.uint8)
    byte_ids = np.full(256, -1, np.int32)
    for rank in ranked:
        data = tokens[rank] or b""
        if len(data) == 1:
            byte_ids[data[0]] = rank
    if (byte_ids < 0).any():
        raise TokenizerError(f"no token for the byte 0x{int(np.argmin(byte_ids)):02X}")
    starts = np.cumsum(lengths) - lengths
    left, right, merged, unreached = merges_of_ranks(letters, starts, lengths, byte_ids, np.array(ranked, np.int32))
    merges = np.stack([left, right, merged]) if not unreached else _every_split(tokens)
    eos = "<|endoftext|>" if "<|endoftext|>" in special_tokens else None
    return BPE(
        tokens=tokens,
        merges=merges,
        splitter=Splitter([pattern_of(pattern)]),
        whole_pieces=True,
        added=[AddedToken(id=id, text=text) for text, id in special_tokens.items()],
        eos=eos,
    )


def _every_split(tokens: Sequence[bytes | None]) -> np.ndarray:
    """(3, n) merges: every way to make a token of two others, by rank, then by the ranks of the two.

    Needed where the tokens before one do not lead to it (some of Llama-3's): tiktoken, which merges whatever two
    neighbours are a token together, can still come upon it by a later token. Transformers converts such files the same.
    """
    ids = {data: rank for rank, data in enumerate(tokens) if data is not None}
    out: list[tuple[int, int, int]] = []
    for data, rank in ids.items():
        parts = [(ids.get(data[:i], -1), ids.get(data[i:], -1)) for i in range(1, len(data))]
        out += [(left, right, rank) for left, right in sorted(parts) if left >= 0 and right >= 0]
    return np.array(out, np.int32).reshape(-1, 3).T


def _read(path: Path) -> list[bytes | None]:
    try:
        raw = path.read_bytes()
        data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise TokenizerError(f"cannot be read ({error})") from None
    ranks: dict[int, bytes] = {}
    seen: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if not line:
            continue
        try:
            first, second = line.split()
            token, rank = base64.b64decode(first, validate=True), int(second)
        except (ValueError, binascii.Error):
            raise TokenizerError(f"line {number}: expected `base64(token) rank`, got {line[:40]!r}") from None
        if not token or rank < 0 or rank in ranks or token in seen:
            raise TokenizerError(f"line {number}: the token {token!r} or its rank {rank} is empty or was there before")
        ranks[rank], seen[token] = token, rank
    if not ranks:
        raise TokenizerError("holds no token")
    gap = next((rank for rank in range(len(ranks)) if rank not in ranks), None)
    if gap is not None:
        raise TokenizerError(f"no token has the rank {gap}, but there are ranks up to {max(ranks)}")
    return [ranks[rank] for rank in range(len(ranks))]


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
        return load(path, pattern, special_tokens)
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
