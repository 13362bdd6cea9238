"""Log-probabilities in the two shapes of OpenAI's API.

A token is shown as its text; a token that is not whole UTF-8 by itself as `bytes:\\xe2\\x82`, so that no two tokens of
a dictionary collide; with `return_tokens_as_token_ids` as `token_id:123`.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llmanac.generate.engine import TokenLogprob

if TYPE_CHECKING:
    from llmanac.tokenizers import Tokenizer

LOWEST = -9999.0  # what the API writes for a probability of zero; JSON has no infinity


class TokenTexts:
    """How tokens are shown."""

    def __init__(self, tokenizer: Tokenizer | None, *, as_ids: bool = False) -> None:
        self._tokenizer, self._as_ids = tokenizer, as_ids
        self.special = frozenset(tokenizer.special_tokens.values()) if tokenizer else frozenset()

    def bytes_of(self, token: int) -> bytes:
        if self._tokenizer is None or token >= self._tokenizer.vocab_size:
            return b""
        return self._tokenizer.token_bytes(token)

    def text_of(self, token: int) -> str:
        data = self.bytes_of(token)
        if self._as_ids or not data:
            return f"token_id:{token}"
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class CompletionLogprobs:
    """`choices[].logprobs` of /v1/completions, for one choice as it grows (offsets go on from chunk to chunk).

    Args:
        echo: the prompt's text and its tokens, where the choice begins with it; what these have before the text (a
            begin-of-text token, a space) has no length, and neither has a special token that was generated.
    """

    def __init__(self, texts: TokenTexts, echo: tuple[str, Sequence[int]] = ("", ())) -> None:
        self._texts = texts
        self._offset = 0
        self._echoed = len(echo[1])
        data, own = b"".join(map(texts.bytes_of, echo[1])), echo[0].encode("utf-8", "replace")
        self._before = len(data) - len(own) if data.endswith(own) else 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def render(self, scores: Iterable[TokenLogprob]) -> dict[str, list[Any]]:
        out: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for score in scores:
            out["tokens"].append(self._texts.text_of(score.id))
            out["token_logprobs"].append(None if score.logprob is None else max(score.logprob, LOWEST))
            out["top_logprobs"].append(None if score.logprob is None else self._top(score, score.logprob))
            out["text_offset"].append(self._offset)
            self._offset += len(self._decoder.decode(self._shown(score.id)))
        return out

    def _shown(self, token: int) -> bytes:
        """What the next token adds to the text."""
        if self._echoed == 0:
            return b"" if token in self._texts.special else self._texts.bytes_of(token)
        data = self._texts.bytes_of(token)
        cut = min(self._before, len(data))
        self._before, self._echoed = self._before - cut, self._echoed - 1
        return data[cut:]

    def _top(self, score: TokenLogprob, own: float) -> dict[str, float]:
        """The alternatives and always the token itself; two tokens of one text are distinguished by their ids."""
        top: dict[str, float] = {}
        for token, value in {**score.top, score.id: own}.items():
            text = self._texts.text_of(token)
            top[f"token_id:{token}" if text in top else text] = max(value, LOWEST)
        return top


def prompt_logprobs(scores: Iterable[TokenLogprob], texts: TokenTexts, most: int) -> list[dict[str, Any] | None]:
    """`prompt_logprobs` in vLLM's form: for each token of the prompt its own log-probability and the `most` best ones,
    by id; None for the first. A rank is None for a token that is not among the best."""

    def entry(score: TokenLogprob, own: float) -> dict[str, Any]:
        best = list(score.top.items())[:most]
        ranks = {token: rank for rank, (token, _) in enumerate(best, 1)}
        return {
            str(token): {"logprob": max(value, LOWEST), "rank": ranks.get(token), "decoded_token": texts.text_of(token)}
            for token, value in {score.id: own, **dict(best)}.items()
        }

    return [None if score.logprob is None else entry(score, score.logprob) for score in scores]


def chat_logprobs(scores: Iterable[TokenLogprob], texts: TokenTexts, alternatives: int) -> dict[str, Any]:
    """`choices[].logprobs` of /v1/chat/completions."""

    def entry(token: int, value: float | None) -> dict[str, Any]:
        shown = max(LOWEST if value is None else value, LOWEST)
        return {"token": texts.text_of(token), "logprob": shown, "bytes": list(texts.bytes_of(token))}

    return {
        "content": [
            {
                **entry(score.id, score.logprob),
                "top_logprobs": [entry(*item) for item in list(score.top.items())[:alternatives]],
            }
            for score in scores
        ],
        "refusal": None,
    }
