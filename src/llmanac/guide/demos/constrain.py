"""Which tokens may come next in a document of a JSON Schema: the mask that the engine puts on the model's logits, after
a beginning that you type. Tokens of the model's own ranking that are not allowed have probability 0 afterwards."""

import json
import time
from typing import Any

import torch
from markupsafe import Markup

from llmanac.core.errors import SpecError
from llmanac.generate.constrain import constraint_of
from llmanac.guide.demos import Field, _html, in_time

CARD = {"title": "The mask of a JSON Schema", "rows": ["constrain/", "decoding/logit-bias"]}
MODEL = True
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "bits": {"enum": [4, 8, 16]}},
    "required": ["name", "bits"],
    "additionalProperties": False,
}
FIELDS = (
    Field("schema", "JSON Schema", json.dumps(SCHEMA, indent=1), most=4000, area=True),
    Field("text", "Text so far", '{"name": "nf4", "bits": '),
)


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """How many tokens are allowed after the text, the likeliest of them, and those that the mask takes away."""
    held = models.held
    try:
        schema = json.loads(values["schema"])
    except (ValueError, RecursionError) as error:
        raise SpecError(f"JSON Schema: {error}") from None
    words, size = held.tokenizer, held.engine.model.vocab_size
    make = constraint_of({"schema": schema}, words, held.engine.eos_ids, size, {})
    assert make is not None
    follower, ids = make(), [int(i) for i in words.encode(values["text"])]
    follower.mask()
    until = max(until, time.monotonic() + 5)  # compiling may have taken the time
    rows = []
    for id in ids:
        in_time(until)
        mask = follower.mask()
        text = _html.visible(held.text(id))
        rows.append((text, int(mask.sum()), "yes" if bool(mask[id]) else "no"))
        if not bool(mask[id]):
            table = _html.table("Token by token", ("token", "allowed before it", "is it"), rows)
            return [Markup("<p>No document of the schema begins like this: {} may not come there.</p>").format(text),
                    table]  # fmt: skip
        follower.advance(id)
    mask = torch.from_numpy(follower.mask())
    logs = held.next(ids or [0])
    kept = logs.masked_fill(~mask, float("-inf")).log_softmax(-1)
    order = [int(i) for i in logs.topk(8).indices] + [int(i) for i in kept.topk(min(8, int(mask.sum()))).indices]
    lines = [
        (_html.visible(held.text(i)), _html.percent(float(logs[i])), "yes" if bool(mask[i]) else "no",
         _html.percent(float(kept[i])))
        for i in dict.fromkeys(order)
    ]  # fmt: skip
    share = float(logs[mask].exp().sum())
    told = Markup("<p>{:,} of {:,} tokens may come next; the model gives them {:.3g}% of its probability.{}</p>")
    told = told.format(int(mask.sum()), size, 100 * share, " The text may end here." if follower.accepting() else "")
    heads = ("token", "the model's p", "allowed", "p with the mask")
    steps = _html.details("Token by token", _html.table("", ("token", "allowed before it", "is it"), rows))
    return [told, _html.table("The likeliest tokens before and after the mask", heads, lines), steps]
