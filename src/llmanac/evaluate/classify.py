"""Classifying text with a language model and no training: which label fits the text best?

    direct   label = argmax over c of  log P(words of c | text)                      template: ... {text} ... {label}
    channel  label = argmax over c of  log P(text | words of c) + log P(c)           template: ... {label} ... {text}

The direct way asks for the label after the text; the noisy channel is the reverse: how well each label explains
every word of the text (Min et al. 2022, arXiv:2108.04106), which varies less with the wording of the prompt.

A model prefers some labels whatever the text. Calibration corrects for that: the score that each label
gets for a text without content, "N/A" say, is subtracted (Zhao et al. 2021, arXiv:2102.09690; for the direct way this
is the pointwise mutual information of Holtzman et al. 2021).

Shapes: N texts and C labels give scores (N, C), log-probabilities in nats; probabilities are their softmax over C.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmanac.core.errors import SpecError, nearest
from llmanac.evaluate.likelihood import BATCH_TOKENS, check_texts, loglikelihood
from llmanac.evaluate.score import is_tokenizer
from llmanac.metrics.log_likelihood import Per, log_likelihoods

Way = Literal["direct", "channel"]
TEMPLATES: dict[str, str] = {"direct": "{text}\nLabel: {label}", "channel": "Label: {label}\n{text}"}
CLASSIFIER = "classifier.json"  # in the folder of a trained classifier
FIELDS = re.compile(r"\{(text|label)\}")
LIKE_FIELDS = re.compile(r"\{\s*(\w+)\s*\}")


@dataclass(frozen=True)
class Classified:
    """One text: the best label, every label's score, and the scores as probabilities.

    Attributes:
        scores: label -> log P(label | text) or log P(text | label), plus the log prior, less the calibration.
        log_likelihoods: label -> the model's log-likelihood before prior, calibration and division.
    """

    text: str
    label: str
    scores: dict[str, float]
    probabilities: dict[str, float]
    log_likelihoods: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """One line of `llmanac score --labels ... --json`."""
        return vars(self)


@dataclass(frozen=True)
class LabelPrompt:
    """A prompt with one {text} and one {label}, split at the fields; any other brace is plain text."""

    before: str
    first: str
    between: str
    second: str
    after: str

    @classmethod
    def parse(cls, template: str, way: Way) -> LabelPrompt:
        """Raises SpecError where a field is missing, double, or in the wrong order for the way."""
        names = FIELDS.findall(template)
        if sorted(names) != ["label", "text"]:
            raise SpecError(f"template: {template!r} must hold {{text}} and {{label}}, each once")
        wanted = ["text", "label"] if way == "direct" else ["label", "text"]
        if names != wanted:
            raise SpecError(
                f"template: for {way} scoring {{{wanted[0]}}} comes before {{{wanted[1]}}}, "
                f"e.g. {TEMPLATES[way]!r}; {template!r} has them the other way round"
            )
        before, first, between, second, after = FIELDS.split(template)
        return cls(before, first, between, second, after)

    def pair(self, text: str, label: str) -> tuple[str, str]:
        """(context, continuation): the text before the scored field, and the field with the text after it."""
        values = {"text": text, "label": label}
        return self.before + values[self.first] + self.between, values[self.second] + self.after


def check_fields(template: str) -> None:
    """Refuse unknown fields, which `LabelPrompt` would read as text.

    Raises:
        SpecError: `{word}` in a template, where the word is not text or label.
    """
    for found in LIKE_FIELDS.finditer(template):
        if not FIELDS.fullmatch(found[0]):
            near = nearest(found[1], ("text", "label"))
            raise SpecError(f"template: {found[0][:60]} is no field{near}; the fields are {{text}} and {{label}}")


def classify(
    model: Any,
    tokenizer: Any = None,
    texts: str | Sequence[str] | None = None,
    labels: Sequence[str] | Mapping[str, str] | None = None,
    *,
    template: str | None = None,
    way: Way = "direct",
    calibrate: str | None = None,
    prior: Mapping[str, float] | None = None,
    per: Per = "text",
    batch_tokens: int = BATCH_TOKENS,
) -> list[Classified]:
    """Label texts by likelihood, with no training. (What `llmanac classify train` saved is used with
    `models.classifiers.load.load_classifier(folder).predict(texts)`.)

    Args:
        model: any `LanguageModel`.
        labels: the labels; or label -> its words in the template (the verbalizer).
        template: text with one {text} and one {label}; each way has a default.
        way: "direct" scores the label after the text, "channel" the text after the label.
        calibrate: a text without content (such as "N/A"), whose scores are subtracted.
        prior: label -> P(label), scaled to sum to 1; all alike where it is not given.
        per: what the log-likelihood of the scored part is divided by; see `metrics/log_likelihood.py`.

    Raises:
        SpecError: a template, label or prior that cannot be used, or arguments in another order.
        DataError: see `likelihood.encode_pair`.
    """
    _check_order(model, tokenizer, texts, labels)
    if way not in TEMPLATES:
        raise SpecError(f"way: {way!r} is not direct or channel")
    texts = [texts] if isinstance(texts, str) else list(texts or ())
    check_texts(texts)
    words = _words(() if labels is None else labels)
    names = list(words)
    prompt = LabelPrompt.parse(TEMPLATES[way] if template is None else template, way)
    asked = texts if calibrate is None else [*texts, calibrate]
    pairs = [prompt.pair(text, words[name]) for text in asked for name in names]
    found = loglikelihood(model, tokenizer, pairs, batch_tokens=batch_tokens)
    raw = np.array([one.total for one in found]).reshape(len(asked), len(names))
    divided = log_likelihoods([one.logprobs for one in found], per=per, texts=[scored for _, scored in pairs])
    scores = divided.reshape(raw.shape) + _log_prior(prior, names)
    if calibrate is not None:
        off = divided.reshape(raw.shape)[-1]
        scores = scores[:-1] - np.where(np.isneginf(off), 0.0, off)  # two impossibilities have no difference
    return [
        Classified(
            text,
            names[int(row.argmax())],
            dict(zip(names, row.tolist(), strict=True)),
            dict(zip(names, _softmax(row).tolist(), strict=True)),
            dict(zip(names, own.tolist(), strict=True)),
        )
        for text, row, own in zip(texts, scores, raw, strict=False)
    ]


def _check_order(model: Any, tokenizer: Any, texts: Any, labels: Any) -> None:
    """Refuse a path for a model, and arguments that are missing or in the wrong order."""
    call = "call classify(model, tokenizer, texts, labels)"
    if isinstance(model, (str, Path)):
        if (Path(model) / CLASSIFIER).is_file():
            raise SpecError(
                f"model: {model} is a trained classifier; use "
                f"llmanac.models.classifiers.load.load_classifier({str(model)!r}).predict(texts)"
            )
        raise SpecError(
            f"model: {str(model)!r} is a path; {call} with what load_model and load_tokenizer give, or for a trained "
            "classifier llmanac.models.classifiers.load.load_classifier(folder).predict(texts)"
        )
    if is_tokenizer(texts):
        raise SpecError(f"texts: is a tokenizer; {call}")
    if not is_tokenizer(tokenizer):
        raise SpecError(f"tokenizer: {type(tokenizer).__name__} is not a tokenizer; {call}")
    if texts is None or labels is None:
        raise SpecError(f"{'texts' if texts is None else 'labels'}: missing; {call}")


def _words(labels: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    if isinstance(labels, str):
        raise SpecError(f"labels: expected a list of labels, got the one text {labels!r}")
    words = dict(labels) if isinstance(labels, Mapping) else {name: name for name in labels}
    if len(words) < 2 or (not isinstance(labels, Mapping) and len(words) < len(labels)):
        raise SpecError(f"labels: {list(labels)} must be at least two, all different")
    for name, text in words.items():
        if not isinstance(text, str) or not text.strip():
            raise SpecError(f"labels: {name!r} needs words")
    same = {text for text in words.values() if list(words.values()).count(text) > 1}
    if same:
        raise SpecError(f"labels: {sorted(same)[0]!r} is the text of more than one label, so their scores are equal")
    return words


def _log_prior(prior: Mapping[str, float] | None, names: list[str]) -> np.ndarray:
    """(C,) ln P(c)."""
    if prior is None:
        return np.zeros(len(names))  # all alike changes neither the order nor the probabilities
    if set(prior) != set(names) or not all(0 < float(p) < float("inf") for p in prior.values()):
        raise SpecError(f"prior: {dict(prior)} must give each of {', '.join(names)} a number above 0")
    values = np.array([float(prior[name]) for name in names])
    return np.log(values / values.sum())


def _softmax(row: np.ndarray) -> np.ndarray:
    top = row.max()
    if not np.isfinite(top):  # every label has probability 0: nothing tells them apart
        return np.full(len(row), 1 / len(row))
    exponentials = np.exp(row - top)
    return np.asarray(exponentials / exponentials.sum())
