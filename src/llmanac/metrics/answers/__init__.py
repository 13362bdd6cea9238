r"""Answers in generated text: how a benchmark finds them, and when it calls two of them equal.

    extract("... so 6 * 7 = 42.\n#### 42", "gsm8k")  ->  "42"         equal("1/2", r"\frac{1}{2}", "math")  ->  True

    convention      finds                                       equal where
    squad           the text                                    same words, without case, punctuation, articles
    drop            the text                                    same words, numbers by value
    triviaqa        up to the first newline, stop or comma      same characters, without case and punctuation
    gsm8k           the first number after `####`               same characters, without commas, `$`, a last stop
    gsm8k-flexible  the last number                             as gsm8k
    hendrycks-math  between the first and the last `$`, or all  same LaTeX after lm-eval's rewriting
    minerva-math    after `Final Answer: The final answer is`   same LaTeX after Minerva's rewriting
    math            the last `\boxed{}`, else as minerva-math,  same value (`_values.py`); of what has none, as one of
                    else the last number                        the two above
    choice          the letter after `Answer:`                  same letter

All but `math` follow lm-eval (`choice`: simple-evals); lm-eval's Minerva task asks sympy too, which `math` replaces by
its own arithmetic. Nothing in a text is ever run. Time is linear in its length: an answer in LaTeX of more than
`MOST_LATEX` characters is compared as it is, a sum or power too large to write down has no value.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmanac.core.errors import SpecError, nearest, shown
from llmanac.metrics.answers import _latex, _short
from llmanac.metrics.answers._latex import MOST_LATEX as MOST_LATEX
from llmanac.metrics.answers._values import same_value

INVALID = "[invalid]"  # what lm-eval puts in the place of an answer that was not found


def _whole(text: str) -> str | None:
    return text


def _math(text: str) -> str | None:
    found = _latex.boxed(text)
    return found if found is not None else _latex.minerva_answer(text) or _short.last_number(text)


def _same_math(one: str, two: str) -> bool:
    """By value, where both can be read; else by their texts."""
    same = same_value(one, two)
    return _latex.same_as_hendrycks(one, two) or _latex.same_as_minerva(one, two) if same is None else same


@dataclass(frozen=True)
class Convention:
    """How an answer is found in a text (None: there is none), and when two are equal."""

    extract: Callable[[str], str | None]
    equal: Callable[[str, str], bool]


CONVENTIONS = {
    "squad": Convention(_whole, lambda one, two: _short.normalise(one) == _short.normalise(two)),
    "drop": Convention(_whole, lambda one, two: _short.drop(one, two)[0] == 1.0),
    "triviaqa": Convention(_short.first_clause, lambda one, two: _short.bare(one) == _short.bare(two)),
    "gsm8k": Convention(_short.marked_number, lambda one, two: _short.number(one) == _short.number(two)),
    "gsm8k-flexible": Convention(_short.last_number, lambda one, two: _short.number(one) == _short.number(two)),
    "hendrycks-math": Convention(_latex.between_dollars, _latex.same_as_hendrycks),
    "minerva-math": Convention(_latex.minerva_answer, _latex.same_as_minerva),
    "math": Convention(_math, _same_math),
    "choice": Convention(_short.letter, lambda one, two: one.strip().upper() == two.strip().upper()),
}


def convention(name: str) -> Convention:
    """The convention of that name. Raises SpecError that lists the known ones."""
    if name not in CONVENTIONS:
        raise SpecError(
            f"convention: {shown(name)} is not known{nearest(name, CONVENTIONS)} (known: {', '.join(CONVENTIONS)})"
        )
    return CONVENTIONS[name]


def extract(text: str, convention_name: str) -> str | None:
    """The answer in a generated text, None where it has none."""
    return convention(convention_name).extract(text)


def equal(answer: str | None, reference: str, convention_name: str) -> bool:
    """Whether an extracted answer is the reference; None never is."""
    return answer is not None and convention(convention_name).equal(answer, reference)


def correct(text: str, references: str | Sequence[str], convention_name: str) -> bool:
    """Whether the answer in a generated text equals one of the references."""
    answer = extract(text, convention_name)
    given = [references] if isinstance(references, str) else references
    return any(equal(answer, one, convention_name) for one in given)


f1 = _short.f1
exact_match = _short.exact_match
drop = _short.drop
