"""Token ids of a context and its continuation, by the rules of lm-eval.

- Context and continuation are encoded as one text; the continuation's tokens are those past as many as the context has
  by itself. White space at the end of the context belongs to the continuation, where tokenizers put it.
- An empty context is the start token (bos, else eos). Where the tokenizer's texts begin with bos, a context does too.
"""

from typing import Any

from llmanac.core.errors import DataError


def start_token(tokenizer: Any) -> int | None:
    """The token before a text: the tokenizer's bos, else its eos, else None."""
    return tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text, begun with bos where the tokenizer's texts begin so."""
    ids = [int(i) for i in tokenizer.encode(text)]
    return [tokenizer.bos_id, *ids] if tokenizer.adds_bos else ids


def encode_pair(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of a context (at least one) and of its continuation. See the module for the rules.

    Raises:
        DataError: an empty context and no start token, or a continuation that merges into the context's last token.
    """
    bare = context.rstrip()
    before, after = bare, context[len(bare) :] + continuation
    if before:
        start = encode(tokenizer, before)
        rest = encode(tokenizer, before + after)[len(start) :]
    else:
        first, ids = start_token(tokenizer), [int(i) for i in tokenizer.encode(after)]
        if first is None:
            raise DataError("context: it is empty, and this tokenizer has no bos or eos token to begin with")
        start, rest = ([first], ids) if ids[:1] != [first] else (ids[:1], ids[1:])
    if continuation and not rest:
        raise DataError(f"continuation: {continuation[:40]!r} has no token of its own after {context[-40:]!r}")
    return start, rest
