"""The tokenizer in a GGUF file, read and written: `gpt2` (byte-level BPE) and `llama` (SentencePiece BPE by scores).

A file names its split pattern (`tokenizer.ggml.pre`) and leaves it to the reader to know it; one that is not known is
refused, since ids would silently be wrong. What the ids of a text are follows llama.cpp, which defines the names: in
particular Qwen's text is not composed to NFC first.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core.errors import CheckpointError, SpecError, TokenizerError, shown
from llmanac.kernels.gguf import opened
from llmanac.tokenizers import _pieces as spm
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._base import Tokenizer
from llmanac.tokenizers._bpe import BPE
from llmanac.tokenizers._byte_level import ALPHABET, written
from llmanac.tokenizers._unigram import SentencePiece
from llmanac.tokenizers.hf.document import chosen, from_document
from llmanac.tokenizers.patterns.splitter import DIGIT, GPT2, GPT4, LLAMA3, NAMED, O200K, QWEN3

KEY = "tokenizer.ggml."
ROLES = {"bos": "bos", "eos": "eos", "pad": "padding"}
TEKKEN = O200K.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "").replace(r"\p{N}{1,3}", r"\p{N}")
DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")
# name -> patterns, one within the pieces of the one before; the first name of equal ones is written
PATTERNS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("gpt-2", "phi-2", "olmo", "mpt", "jina-en", "gigachat", "modern-bert"), (GPT2,)),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2"), (LLAMA3,)),
    **dict.fromkeys(("dbrx", "smaug-bpe"), (LLAMA3,)),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"), (QWEN3,)),
    **dict.fromkeys(("gpt-4o", "llama4"), (O200K,)),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"), (DIGIT, GPT2)),
    "tekken": (TEKKEN,),
    "default": DEFAULT,
}
# of which a piece that is a token is not merged, and a text begins with a bos where the file does not say
WHOLE = ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2", "tekken")


def load(path: Path) -> Tokenizer:
    """Read the tokenizer of a GGUF file.

    Raises:
        TokenizerError: a damaged file, a model or a pattern that is not known, or a vocabulary that cannot be used.
    """
    try:
        metadata = opened(path).metadata
    except CheckpointError as error:
        raise TokenizerError(str(error)) from None
    try:
        return _made(metadata)
    except (TokenizerError, SpecError) as error:
        said = (
            str(error).replace("model.merges", f"{KEY}merges").replace("model.vocab", f"{KEY}tokens")
        )  # as it has them
        raise TokenizerError(f"{path}: {said}") from None


def _made(metadata: Mapping[str, Any]) -> Tokenizer:
    model, pre = metadata.get(f"{KEY}model"), metadata.get(f"{KEY}pre", "default")
    if not isinstance(model, str) or model not in ("gpt2", "llama"):
        raise TokenizerError(f"{KEY}model: {shown(model)} is not supported (only 'gpt2' and 'llama')")
    if not isinstance(pre, str):
        raise TokenizerError(f"{KEY}pre: is {shown(pre)}, expected text")
    tokens = _list(metadata, "tokens")
    where = {text: id for id, text in enumerate(tokens)}
    if len(where) < len(tokens):
        twice = next(text for id, text in enumerate(tokens) if where[text] != id)
        raise TokenizerError(f"{KEY}tokens: {shown(twice)} is listed twice")
    types = _numbers(metadata, "token_type", len(tokens), spm.NORMAL).tolist()
    roles = {role: _token(metadata, f"{name}_token_id", tokens) for role, name in ROLES.items()}
    for text in filter(None, roles.values()):
        if model == "gpt2" or types[where[text]] != spm.UNKNOWN:
            types[where[text]] = spm.CONTROL
    begins = metadata.get(f"{KEY}add_bos_token", model == "llama" or pre in WHOLE)
    template = metadata.get("tokenizer.chat_template")
    given = "" if template is None else template
    for key, value, kind in ((f"{KEY}add_bos_token", begins, bool), ("tokenizer.chat_template", given, str)):
        if type(value) is not kind:
            raise TokenizerError(f"{key}: is {shown(value)}, expected {'text' if kind is str else 'true or false'}")
    template = chosen(template, metadata.get("tokenizer.chat_template.tool_use"))
    if model == "llama":
        return _by_scores(metadata, tokens, types, adds_bos=begins, chat_template=template, **roles)
    if pre not in PATTERNS:
        raise TokenizerError(f"{KEY}pre: {shown(pre)} is not known (known: {', '.join(PATTERNS)})")
    patterns, digits = PATTERNS[pre], {"type": "Digits", "individual_digits": True}
    last = patterns[-1] == GPT2  # which a ByteLevel step knows
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    steps = [
        digits if one == DIGIT else {**split, "pattern": {"Regex": one}} for one in patterns[: len(patterns) - last]
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": last}
    strange = set("".join(tokens)).difference(ALPHABET)  # characters that no byte is written as
    added = [
        AddedToken(id=id, text=tokens[id], special=kind != spm.USER_DEFINED).as_json()
        for id, kind in enumerate(types)
        if kind in (spm.CONTROL, spm.USER_DEFINED) or (strange and not strange.isdisjoint(tokens[id]))
    ]
    document = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, byte_level]}, "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": _token(metadata, "unknown_token_id", tokens),
            "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": pre in WHOLE, "vocab": where, "merges": _list(metadata, "merges", []),
        },
    }  # fmt: skip
    config = {"add_bos_token": begins, **{f"{role}_token": text for role, text in roles.items()}}
    return from_document(document, config, template)


def _by_scores(metadata: Mapping[str, Any], tokens: list[str], types: list[int], **roles: Any) -> SentencePiece:
    scores = _numbers(metadata, "scores", len(tokens), 0.0).tolist()
    added = [AddedToken(id=id, text=tokens[id]) for id, kind in enumerate(types) if kind == spm.CONTROL]
    if spm.UNKNOWN not in types:
        types = _with_unknown(metadata, tokens, types, roles)
    pieces = tuple(map(spm.ScoredPiece, map(_spelled, tokens, types), scores, types))
    flags = {}
    for key, default in (("add_space_prefix", True), ("remove_extra_whitespaces", False)):
        flags[key] = metadata.get(f"{KEY}{key}", default)
        if type(flags[key]) is not bool:
            raise TokenizerError(f"{KEY}{key}: is {shown(flags[key])}, expected true or false")
    rules = spm.NormalizerRules("identity", b"", flags["add_space_prefix"], flags["remove_extra_whitespaces"], True)
    trainer: dict[str, Any] = {"model_type": spm.BPE, "vocab_size": len(pieces), "byte_fallback": spm.BYTE in types}
    for role in ROLES:
        if roles[role] is not None:
            trainer[f"{role}_piece"] = roles[role]
    trainer["unk_piece"] = next((piece.text for piece in pieces if piece.type == spm.UNKNOWN), "<unk>")
    model = spm.Model(pieces, trainer, rules)
    spm.validate(model)
    return SentencePiece(model, added=added, **roles)


def _with_unknown(metadata: Mapping[str, Any], tokens: list[str], types: list[int], roles: Any) -> list[int]:
    """The types with one UNKNOWN: the token that the file names, else one that text never becomes.

    Gemma 3's files mark theirs as CONTROL, others name none; it stands for no text where every byte has a piece.
    """
    named = _token(metadata, "unknown_token_id", tokens)
    spare = {text: id for id, text in enumerate(tokens) if types[id] in (spm.CONTROL, spm.UNUSED)}
    free = [text for text in spare if text not in roles.values()]
    chosen = next((text for text in (named, "<unk>", *free) if text in spare), None)
    if chosen is None:
        return types
    return [*types[: spare[chosen]], spm.UNKNOWN, *types[spare[chosen] + 1 :]]


def _spelled(text: str, kind: int) -> str:
    """Gemma's runs of spaces are in the file as they are, as in no SentencePiece model."""
    return text.replace(" ", spm.SPACE) if kind == spm.USER_DEFINED and not text.strip(" ") else text


def _list(metadata: Mapping[str, Any], name: str, default: Any = None) -> list[str]:
    value = metadata.get(KEY + name, default)
    if not isinstance(value, list) or (default is None and not value):
        raise TokenizerError(f"{KEY}{name}: is {shown(value)}, expected a list of texts")
    return value


def _numbers(metadata: Mapping[str, Any], name: str, count: int, default: float) -> np.ndarray:
    value = metadata.get(KEY + name)
    if value is None:
        return np.full(count, default)
    kind = "f" if isinstance(default, float) else "iu"
    if not isinstance(value, np.ndarray) or value.dtype.kind not in kind or len(value) != count:
        found = f"has {len(value):,}" if isinstance(value, np.ndarray) else f"is {shown(value)}"
        raise TokenizerError(f"{KEY}{name}: {found}, expected {count:,} numbers, one for each token")
    return value


def _token(metadata: Mapping[str, Any], name: str, tokens: list[str]) -> str | None:
    id = metadata.get(KEY + name)
    if id is None:
        return None
    if type(id) is not int or not 0 <= id < len(tokens):
        raise TokenizerError(f"{KEY}{name}: {shown(id)} is no id below {len(tokens):,}")
    return tokens[id]


# -------------------------------------------------------------------------------------------------------- writing
def keys(tokenizer: Tokenizer, size: int) -> dict[str, Any]:
    """The keys of a tokenizer, with `size` tokens, as many as the model's.

    Raises:
        TokenizerError: a tokenizer for which the format has no form; the message says which.
    """
    if isinstance(tokenizer, SentencePiece) and tokenizer.kind == "bpe" and not tokenizer.rules.charsmap:
        found = _scored(tokenizer)
    elif isinstance(tokenizer, BPE):
        found = _merged(tokenizer)
    else:
        kind = tokenizer.kind if isinstance(tokenizer, SentencePiece) else type(tokenizer).__name__
        raise TokenizerError(
            f"a tokenizer of the kind {kind} has no form in a GGUF file; byte-level BPE and SentencePiece BPE without "
            "rules have one"
        )
    tokens, types = found[f"{KEY}tokens"], found[f"{KEY}token_type"]
    if len(tokens) > size:
        raise TokenizerError(f"the tokenizer has {len(tokens):,} tokens, the model {size:,}")
    for token in tokenizer.added.tokens:
        tokens[token.id] = token.text
        types[token.id] = spm.CONTROL if token.special else spm.USER_DEFINED
    more = range(len(tokens), size)
    tokens += [f"[PAD{id}]" for id in more]
    types += [spm.UNUSED for _ in more]
    if f"{KEY}scores" in found:
        found[f"{KEY}scores"] += [-1000.0 for _ in more]
    found[f"{KEY}token_type"] = np.array(types, np.int32)
    for role, name in ROLES.items():
        id = getattr(tokenizer, f"{role}_id")
        if id is not None:
            found[f"{KEY}{name}_token_id"] = np.uint32(id)
    if tokenizer.unknown_id is not None:
        found[f"{KEY}unknown_token_id"] = np.uint32(tokenizer.unknown_id)
    found[f"{KEY}add_bos_token"] = tokenizer.adds_bos
    if tokenizer.chat_template is not None:
        found["tokenizer.chat_template"] = tokenizer.chat_template
    return found


def _scored(tokenizer: SentencePiece) -> dict[str, Any]:
    pieces, rules = tokenizer.pieces, tokenizer.rules
    if not rules.escape_whitespaces:
        raise TokenizerError("a SentencePiece model that keeps spaces as they are has no form in a GGUF file")
    return {
        f"{KEY}model": "llama", f"{KEY}pre": "default",
        f"{KEY}tokens": [piece.text for piece in pieces] + [""] * (tokenizer.vocab_size - len(pieces)),
        f"{KEY}scores": [piece.score for piece in pieces] + [0.0] * (tokenizer.vocab_size - len(pieces)),
        f"{KEY}token_type": [piece.type for piece in pieces] + [spm.UNUSED] * (tokenizer.vocab_size - len(pieces)),
        f"{KEY}add_space_prefix": rules.add_dummy_prefix,
        f"{KEY}remove_extra_whitespaces": rules.remove_extra_whitespaces,
    }  # fmt: skip


def _merged(tokenizer: BPE) -> dict[str, Any]:
    if tokenizer.prefix_space:
        raise TokenizerError("a tokenizer that puts a space in front of each text has no form in a GGUF file")
    steps = tokenizer.splitter.steps
    if not tokenizer.merges.shape[1]:
        steps = (GPT2,)  # nothing to merge, so it does not matter how text is cut
    elif steps == (GPT4,):
        steps = (LLAMA3,)  # differs in white space at the very end of a text only; the format has nothing closer
    pre = next((n for n, of in PATTERNS.items() if of == steps and (n in WHOLE) == tokenizer.whole_pieces), None)
    if pre is None:
        known = next((name for name, pattern in NAMED.items() if (pattern,) == steps), " then ".join(steps)[:100])
        raise TokenizerError(f"the split pattern {known} has no name in a GGUF file")
    table = [None if data is None else written(data) for data in tokenizer.tokens]
    table += [None] * (tokenizer.vocab_size - len(table))
    return {
        f"{KEY}model": "gpt2", f"{KEY}pre": pre,
        f"{KEY}tokens": [f"[UNUSED{id}]" if text is None else text for id, text in enumerate(table)],
        f"{KEY}token_type": [spm.UNUSED if text is None else spm.NORMAL for text in table],
        f"{KEY}merges": [f"{table[left]} {table[right]}" for left, right, _ in tokenizer.merges.T.tolist()],
    }  # fmt: skip
