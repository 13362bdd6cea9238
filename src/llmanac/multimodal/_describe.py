"""Greedy text about an image: what `vlm` and `flamingo` write after a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.core.types import LAST
from llmanac.multimodal.vlm import VLM


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
