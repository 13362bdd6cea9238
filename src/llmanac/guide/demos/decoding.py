"""One prompt continued with every decoding method, in one batch: how likely each token was under the model, and what
else was likely. Each method has values under which it differs from drawing from the model. A method that keeps several
tokens draws one with the seed; beam searches have a demo of their own."""

import math
from typing import Any

from markupsafe import Markup

from llmanac.core import registry
from llmanac.core.errors import RequestError
from llmanac.core.spec import dump, make_method
from llmanac.guide.demos import Field, _html, _model

CARD = {"title": "Decoding methods on one prompt", "kinds": ["decoding", "decode"]}
MODEL = True
VALUES: dict[str, dict[str, Any]] = {
    "count-penalty": {"presence": 2.0, "frequency": 2.0}, "presence-penalty": {"presence": 1.0},
    "min-p": {"m": 0.2}, "no-repeat-ngram": {"n": 2}, "repetition-penalty": {"penalty": 1.3},
    "temperature": {"temperature": 0.7}, "top-k": {"k": 5}, "top-p": {"p": 0.8}, "typical": {"p": 0.5},
}  # fmt: skip
FIELDS = (
    Field("prompt", "Prompt", "The cache of a model"),
    Field("method", "First method", "top-p", kind="decoding"),
    Field("tokens", "Tokens", "32", low=1, high=32),
    Field("temperature", "Temperature before it", "1.0", low=0.1, high=3.0),
    Field("seed", "Seed", "3", low=0, high=1_000_000),
)


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """The texts by method, with the probabilities of their tokens."""
    held, first = models.held, values["method"]
    names = [first, *(name for name in registry.methods("decoding") if name != first)]
    requests, used = [], []
    warm = make_method("decoding", {"name": "temperature", "temperature": values["temperature"]})
    assert held.engine.tokenizer is not None
    often = tuple(held.engine.tokenizer.encode(" the")[:1])
    for name in names:
        chosen = VALUES.get(name, {"ids": often, "biases": (-5.0,) * len(often)} if name == "logit-bias" else {})
        spec = make_method("decoding", {"name": name, **chosen})
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
        used.append((name, ", ".join(f"{key}={value}" for key, value in dump(spec).items() if key != "name")))
    out = [Markup("<p>The prompt has {} tokens. Darker tokens were likelier.</p>").format(len(requests[0].prompt))]
    rows = []
    for (name, choices), done in zip(used, _model.finish(held.engine, requests, until), strict=True):
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
        out.append(Markup("<h3>{}</h3><p>{}</p>{}{}").format(name, choices, _html.tokens(shown), listed))
    heads = ("method", "log-probability", "perplexity of the text", "different tokens")
    return [_html.table("Under the model, before any method", heads, rows), *out]
