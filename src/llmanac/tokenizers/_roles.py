"""Special tokens by their usual names, and the checks that every tokenizer's Spec makes."""

from collections.abc import Sequence
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.tokenizers._normal import SURROGATE
from llmanac.tokenizers.chat.template import default_template

BEGINS = ("<|begin_of_text|>", "<|startoftext|>", "<|bos|>", "<|begin|>", "<s>", "<bos>", "[BOS]")
ENDS = ("<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<|eos|>", "</s>", "<eos>", "[EOS]")
PADS = ("<|pad|>", "<pad>", "[PAD]")


def usual(names: Sequence[str], special: Sequence[str]) -> str | None:
    """The first of the usual names that is a special token."""
    return next((name for name in names if name in special), None)


def check_special_tokens(special: Sequence[str]) -> None:
    """Raises SpecError for a special token that is empty, given twice, or no text."""
    seen: set[str] = set()
    for i, text in enumerate(special):
        if not text or text in seen:
            raise SpecError(f"special_tokens.{i}: {text!r} is {'given twice' if text else 'empty'}")
        if SURROGATE.search(text):
            raise SpecError(f"special_tokens.{i}: {text!r} holds a surrogate, which no text can")
        seen.add(text)


def roles_of(spec: Any, special: Sequence[str], *no_roles: str) -> dict[str, Any]:
    """`bos`, `eos`, `pad` and `chat_template` of a Spec, those left open by the usual names among the special tokens.

    `no_roles` are special tokens that are not a speaker's in a chat.
    """
    eos = spec.eos or usual(ENDS, special)
    template = default_template(special, eos=eos, no_roles=(*BEGINS, *ENDS, *PADS, spec.bos, spec.pad, *no_roles))
    return {
        "bos": spec.bos or usual(BEGINS, special),
        "eos": eos,
        "pad": spec.pad or usual(PADS, special),
        "chat_template": spec.chat_template or template,
    }
