"""One prompt continued with every decoding method, in one batch: how likely each token was under the model, and what
else was likely. A method that keeps several tokens draws one with the seed; beam searches have a demo of their own."""

from __future__ import annotations

import math
from typing import Any

from markupsafe import Markup

from llmanac.core import registry
from llmanac.core.errors import RequestError
from llmanac.core.spec import make_method
from llmanac.guide.demos import Field, _html, _model

CARD = {"title": "Decoding methods on one prompt", "kinds": ["decoding", "decode"]}
MODEL = True
FIELDS = (
    Field("prompt", "Prompt", "The cache of a model"),
    Field("method", "First method", "top-p", kind="decoding"),
    Field("tokens", "Tokens", "16", low=1, high=32),
    Field("temperature", "Temperature before it", "1.0", low=0.1, high=3.0),
    Field("seed", "Seed", "0", low=0, high=1_000_000),
)


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """The texts by method, with the probabilities of their tokens."""
    held, first = models.held, values["method"]
    names = [first, *(name for name in registry.methods("decoding") if name != first)]
    requests, used = [], []
    warm = make_method("decoding", {"name": "temperature", "temperature": values["temperature"]})
    for name in names:
        spec = make_method("decoding", name)
        if spec.searches:
            continue
        try:
            request = held.engine.request(values["prompt"], max_new_tokens=values["tokens"], seed=values["seed"],
                                          logprobs=4, decoding=[warm, spec])  # fmt: skip
        except RequestError as error:
            if name == first or "decoding" not in str(error):
                raise
            continue
        requests.append(request)
        used.append(name)
    out = [Markup("<p>The prompt has {} tokens. Darker tokens were likelier.</p>").format(len(requests[0].prompt))]
    rows = []
    for name, done in zip(used, _model.finish(held.engine, requests, until), strict=True):
        logs = [t.logprob for t in done.token_logprobs if t.logprob is not None]
        rows.append((name, f"{sum(logs):.2f}", f"{math.exp(-sum(logs) / max(1, len(logs))):.2f}",
                     len({t.id for t in done.token_logprobs})))  # fmt: skip
        shown, lines = [], []
        for token in done.token_logprobs:
            text, log = held.text(token.id), -math.inf if token.logprob is None else token.logprob
            others = ", ".join(f"{_html.visible(held.text(i))} {_html.percent(v)}" for i, v in token.top.items())
            shown.append((text, f"{_html.percent(log)}; likeliest: {others}", math.exp(log)))
            lines.append((_html.visible(text), _html.percent(log), others))
        listed = _html.details(f"Probabilities of {name}", _html.table("", ("token", "p", "likeliest"), lines))
        out.append(Markup("<h3>{}</h3>{}{}").format(name, _html.tokens(shown), listed))
    heads = ("method", "log-probability", "perplexity of the text", "different tokens")
    return [_html.table("Under the model, before any method", heads, rows), *out]
