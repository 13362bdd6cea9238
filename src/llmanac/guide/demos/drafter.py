"""Speculative decoding token by token: a proposed token that the model accepts needs no call of its own. The text is
the one that the model writes alone, which is checked here. More is accepted where the text repeats itself."""

from typing import Any

from markupsafe import Markup

from llmanac.core.types import evaluating
from llmanac.generate.engine import Engine
from llmanac.guide.demos import Field, _html, _model, in_time

CARD = {"title": "Accepted tokens of speculative decoding", "kinds": ["drafter"], "rows": ["serve/speculative"]}
MODEL = True
PROMPT = "No margin was stated before the first result: 1% holds. No margin was stated before the"
FIELDS = (
    Field("prompt", "Prompt", PROMPT, most=400, area=True),
    Field("method", "Drafter", "prompt-lookup", kind="drafter"),
    Field("tokens", "Tokens", "24", low=1, high=48),
)


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """The text with its accepted tokens marked, and calls with and without drafts."""
    held = models.held
    size, words = held.engine.model.vocab_size, held.tokenizer
    helper = _model.counted(words, size, 3) if values["method"] == "model" else None
    drafter, runner = helper or values["method"], held.engine.native or "torch"
    engine = Engine(held.engine.model, words, drafter=drafter, runner=runner)
    engine.speculation.always = True
    options: Any = {"max_new_tokens": values["tokens"]}
    request = engine.request(values["prompt"], **options)
    scheduler, shown, calls, known = engine.scheduler(), [], 0, 0
    scheduler.submit(request)
    with evaluating(engine.model):
        while scheduler.busy:
            in_time(until)
            for sequence in scheduler.step():
                made = sequence.token_logprobs
                calls += 1
                for index in range(known, len(made)):
                    free = index < len(made) - 1
                    title = "accepted draft" if free else "chosen by the model in its call"
                    shown.append((held.text(made[index].id), title, 0.9 if free else 0.0))
                known = len(made)
    alone = _model.finish(held.engine, [held.engine.request(values["prompt"], **options)], until)[0]
    counts, ids = engine.speculation, [t.id for s in request.sequences for t in s.token_logprobs]
    rows = [
        ("tokens", len(ids)), ("calls of the model", calls), ("without drafts", len(ids)),
        ("drafted", counts.proposed), ("accepted", counts.accepted),
        ("the same text as without", "yes" if ids == alone.ids else "no"),
    ]  # fmt: skip
    drafts = "; the drafter is a 3-gram of the evidence pages over the model's tokens" if helper is not None else ""
    return [Markup("<p>Dark: accepted drafts{}.</p>").format(drafts), _html.tokens(shown),
            _html.table("What it saved", ("", "count"), rows)]  # fmt: skip
