"""Log-likelihoods as lm-eval has them, from those of the package."""

from __future__ import annotations

from llmanac.evaluate.likelihood import text_logprobs
from llmanac.metrics.log_likelihood import log_likelihood
from llmanac.models.pairs import encode, start_token


def loglikelihood_rolling(model, tokenizer, texts, **how):
    """As lm-eval's rolling one: the begin-of-text token is predicted too, where texts have it."""
    first, ids = start_token(tokenizer), [encode(tokenizer, text) for text in texts]
    return [log_likelihood(values) for values in text_logprobs(model, ids, first, **how)]
