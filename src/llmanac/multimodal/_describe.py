"""Text about an image: the ids of a prompt, and what `vlm` and `flamingo` write after it, greedily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.core.types import LAST
from llmanac.multimodal.vlm import VLM

NAMED = 8  # unknown words of a message


def known_ids(tokenizer: Any, text: str, where: str, special: Literal["never", "all"] = "never") -> list[int]:
    """The ids of a text. Raises RequestError that names its words that the model does not know; `where` is a field."""
    ids: list[int] = tokenizer.encode(text, special=special)
    unknown = tokenizer.unknown_id
    if unknown is None or unknown not in ids:
        return ids
    placed = zip(*tokenizer.encode_with_offsets(text, special=special), strict=True)
    words = list(dict.fromkeys(text[a:b].strip()[:40] for i, (a, b) in placed if i == unknown))
    named = ", ".join(map(repr, words[:NAMED])) + (f" and {len(words) - NAMED} more" if len(words) > NAMED else "")
    raise RequestError(f"{where}: {text[:100]!r} has words that the model does not know: {named}")


@torch.no_grad()
def describe(
    model: Any, pixels: Tensor, prompt: Sequence[int], *, end: frozenset[int] | set[int], most: int = 32
) -> list[list[int]]:
    """The ids that follow a prompt, for each image of (B, C, H, H), up to an end token or `most` of them.

    Args:
        prompt: ids; of a `vlm` with its image token once, which is repeated as often as an image needs.

    Raises:
        RequestError: a model that writes no text, or a prompt without room for the image.
    """
    rows, state = len(pixels), model.start(len(pixels))
    banned = None
    if isinstance(model, VLM):
        image = banned = model.spec.image_id
        if list(prompt).count(image) != 1:
            raise RequestError(
                f"prompt: needs the image token ({image}) once, has it {list(prompt).count(image)} times"
            )
        at = list(prompt).index(image)
        prompt = [*prompt[:at], *[image] * model.spec.image_tokens, *prompt[at + 1 :]]
    limit = model.max_length
    if len(prompt) + most > limit:
        most = limit - len(prompt)
        if most < 1:
            raise RequestError(f"prompt: {len(prompt)} tokens with the image, and the model reads {limit}")
    ids = torch.tensor(list(prompt), device=model.device).expand(rows, -1)
    further: dict[str, Any] = {} if isinstance(model, VLM) else {"latents": model.see(pixels)}
    out: list[list[int]] = [[] for _ in range(rows)]
    open_rows = set(range(rows))
    for number in range(most):
        if isinstance(model, VLM):
            further = {"pixels": pixels} if number == 0 else {}
        logits = model(ids, state=state, want=LAST, **further).logits[:, -1]
        if banned is not None and banned < logits.shape[1]:
            logits[:, banned] = -torch.inf
        chosen = logits.argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            if row in open_rows:
                if token in end:
                    open_rows.discard(row)
                else:
                    out[row].append(token)
        if not open_rows:
            break
        ids = chosen[:, None]
    return out
