"""Sample, then rank: n complete texts, of which the one with the highest score is taken.

    x_1 ... x_n ~ p(x | prompt)        x* = the first x_i with the highest s(x_i)

    P(x* = x) = p(x) / p(s = s(x)) (F(s(x))^n - F-(s(x))^n)        F(t) = P(s <= t), F-(t) = P(s < t)

Any score will do, also one that only complete texts have. Nothing is guaranteed: where a text is valid with probability
v, the result is with 1 - (1 - v)^n. The cost is that of n texts; the prompt is read once.

    best = sample_then_rank(engine, prompt, n=16, by=[matches(regex="[0-9]+"), "mean-logprob"], temperature=1.0)[0]
    best.completion.text, best.scores, best.tokens

Stiennon et al. 2020, arXiv:2009.01325 (best of n by a reward).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import RequestError, nearest, shown
from llmanac.generate.constrain import WAYS, grammar_of
from llmanac.generate.engine import Completion, Engine, Prompt, as_prompts

Scorer = str | Callable[[list[str]], Sequence[Any]]  # texts -> a number each, or an object with a `value`
LIKELIHOODS = ("logprob", "mean-logprob")


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best of a prompt's samples.

    Attributes:
        completion: the best sample.
        completions, scores: all samples in order, and a score of each by every scorer.
        tokens: generated in all samples together.
    """

    completion: Completion
    completions: tuple[Completion, ...]
    scores: tuple[tuple[float, ...], ...]

    @property
    def tokens(self) -> int:
        return sum(len(sample.token_logprobs) for sample in self.completions)


def sample_then_rank(
    engine: Engine, prompts: Prompt | Sequence[Prompt], *, n: int, by: Scorer | Sequence[Scorer], **options: Any
) -> list[Best]:
    """The best of `n` samples of each prompt.

    Args:
        by: how samples are scored: "logprob" or "mean-logprob" (a token), under the model; or a function of a list of
            texts that gives a number for each (a reward, a classifier, `matches`). Of several, a later one decides
            where the earlier ones are equal; of equal samples the first is taken.
        options: of `Engine.generate`. Without a temperature all samples are the same.

    Raises:
        RequestError: as `Engine.generate`; a scorer that does not exist, or that gives something other than numbers.
    """
    scorers = scorers_of(by)
    done = engine.generate(prompts, n=n, **options)
    count = len(as_prompts(prompts))
    return [rank(done[at * n : (at + 1) * n], scorers) for at in range(count)]


def rank(samples: Sequence[Completion], by: Scorer | Sequence[Scorer]) -> Best:
    """The best of given samples; see `sample_then_rank`."""
    columns = [_scores(samples, scorer) for scorer in scorers_of(by)]
    scores = tuple(zip(*columns, strict=True))
    best = max(range(len(samples)), key=scores.__getitem__)  # the first of equal ones
    return Best(completion=samples[best], completions=tuple(samples), scores=scores)


def scorers_of(by: Scorer | Sequence[Scorer]) -> list[Scorer]:
    """The scorers as a list. Raises RequestError for none, or for one that does not exist."""
    scorers = [by] if isinstance(by, str) or callable(by) else list(by)
    for scorer in scorers:
        if not callable(scorer) and scorer not in LIKELIHOODS:
            known = f"{' and '.join(LIKELIHOODS)}, or give a function of texts"
            raise RequestError(f"by: no scorer {shown(scorer)}{nearest(str(scorer), LIKELIHOODS)} (known: {known})")
    if not scorers:
        raise RequestError(f"by: there is nothing to rank by; give {' or '.join(LIKELIHOODS)}, or a function of texts")
    return scorers


def _scores(samples: Sequence[Completion], scorer: Scorer) -> list[float]:
    if isinstance(scorer, str):
        known = [[p for p in sample.logprobs if p is not None] for sample in samples]
        return [sum(p) / max(1, len(p) if scorer == "mean-logprob" else 1) for p in known]
    given = list(scorer([sample.text for sample in samples]))
    if len(given) != len(samples):
        raise RequestError(f"by: a scorer gave {len(given)} scores for {len(samples)} texts")
    try:
        found = [float(getattr(value, "value", value)) for value in given]
    except (TypeError, ValueError):
        raise RequestError(f"by: a scorer gave {shown(given[0])}, which is not a number") from None
    if any(math.isnan(value) for value in found):
        raise RequestError("by: a scorer gave a score that is not a number (NaN)")
    return found


def matches(**constraint: Any) -> Callable[[list[str]], list[float]]:
    """A scorer: 1 for a text that matches as a unit, else 0.

    Args:
        constraint: one of `regex`, `grammar`, `schema` and `template`, as `Engine.generate` takes them.

    Raises:
        RequestError: none or several of them, or one that is not well-formed.
    """
    from llmanac.generate.constrain.template import GrammarReader, template_of

    if wrong := [name for name in constraint if name not in WAYS[1:]]:
        raise RequestError(f"{wrong[0]}: is none of {', '.join(WAYS[1:])}")
    found = grammar_of(constraint)
    if found is None and constraint.get("template") is None:
        raise RequestError(f"matches: give one of {', '.join(WAYS[1:])}")
    reader = GrammarReader(template_of(constraint["template"]).grammar() if found is None else found[1]())

    def score(texts: list[str]) -> list[float]:
        data = [text.encode("utf-8", "surrogatepass") for text in texts]
        return [float(len(text) in reader.ends(text, 0)) for text in data]

    return score


def probability(classifier: Any, label: str) -> Callable[[list[str]], list[float]]:
    """A scorer: how probable a fitted classifier finds a label. Raises RequestError for a label that it has not."""
    if label not in classifier.labels:
        raise RequestError(f"label: {shown(label)} is none of the classifier's{nearest(label, classifier.labels)}")
    place = classifier.labels.index(label)
    return lambda texts: [float(p) for p in classifier.probabilities(texts)[:, place]]
