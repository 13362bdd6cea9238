"""The texts that a beam search keeps at each step, as a tree: a branch that has no successor was given up. The best
finished text is marked; its score is its log-probability over its length to the power of the penalty."""

from typing import Any

from markupsafe import Markup

from llmanac.generate.decoding import beam
from llmanac.guide.demos import Field, _html, _model

CARD = {
    "title": "A beam search as a tree",
    "rows": [
        "decode/beam",
        "decode/diverse-beam",
        "decode/length-penalty",
        "decoding/beam",
        "decoding/diverse-beam",
        "decoding/length-penalty",
    ],
}
MODEL = True
FIELDS = (
    Field("prompt", "Prompt", "The cache of a model"),
    Field("tokens", "Tokens", "6", low=1, high=12),
    Field("beams", "Beams", "4", low=1, high=6),
    Field("groups", "Groups (diverse beam search)", "1", low=1, high=6),
    Field("penalty", "Length penalty", "1.0", low=-3.0, high=3.0),
)


def recorded(request: Any) -> list[list[tuple[Any, Any]]]:
    """What the request's search will do: for each step its pairs of a kept text and one that continues it."""
    steps: list[list[tuple[Any, Any]]] = []
    start = request.start_search

    def begin() -> Any:
        search = start()
        step = search.step

        def keep(*given: Any) -> Any:
            steps.append(step(*given))
            return steps[-1]

        search.step = keep
        return search

    request.start_search = begin
    return steps


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """The tree and the finished texts."""
    held = models.held
    spec = beam.Spec(beams=values["beams"], groups=values["groups"], length_penalty=values["penalty"])
    request = held.engine.request(values["prompt"], max_new_tokens=values["tokens"], n=values["beams"], decoding=[spec])
    steps = recorded(request)
    done = _model.finish(held.engine, [request], until)
    best = done[0].ids
    before: list[Any] = []
    layers: list[list[tuple[str, int, bool]]] = [[("(prompt)", 0, True)]]
    for made in steps:
        if not made:
            break
        old = {id(text): index for index, text in enumerate(before)}
        layers.append([
            (held.text(text.ids[-1]), old.get(id(parent), 0), list(text.ids) == best[: len(text.ids)])
            for parent, text in made
        ])  # fmt: skip
        before = [text for _, text in made]
    last = [(held.text(c.ids[-1]), parent, list(c.ids) == best)
            for c in done for parent, text in enumerate(before) if list(text.ids) == c.ids[:-1]]  # fmt: skip
    if last:
        layers.append(last)
    title = f"A beam search with {spec.beams} beams over {len(layers) - 1} tokens"
    rows = [(n + 1, _html.visible(c.text), len(c.ids), f"{sum(v or 0.0 for v in c.logprobs):.3f}",
             "" if c.score is None else f"{c.score:.3f}") for n, c in enumerate(done)]  # fmt: skip
    heads = ("rank", "text", "tokens", "log-probability", "score")
    return [_html.tree(layers, title), _html.table("Finished texts", heads, rows)]
