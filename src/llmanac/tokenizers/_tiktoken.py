"""tiktoken's vocabulary files: a line `base64(token) rank` each, gzipped or not.

Such a file has no merges, no split pattern and no control tokens. The merges follow from the ranks: each token is made
of the two parts into which the tokens before it cut its bytes. The others belong to the encoding's name.
"""

import base64
import binascii
import gzip
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from llmanac.core.errors import TokenizerError
from llmanac.kernels.bpe.encode import merges_of_ranks
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers.patterns.splitter import Splitter, pattern_of

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
