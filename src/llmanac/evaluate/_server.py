"""A model behind an OpenAI-compatible server: likelihoods by `echo` and `logprobs`, text by greedy completions.

Some servers ignore `echo`, leave log-probabilities out, or give those of other tokens, and every choice looks equally
good. So a server is tested before its likelihoods are used: the text must come back as it was sent, each token with a
number, one text must have one likelihood however it is divided into context and continuation, and a token that the
server itself generates must have, when it is sent back, the log-probability that the server named for it.

A token belongs to the continuation if it ends after the context's last character that is no white space.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from llmanac.core.errors import RequestError, shown

SECONDS = 600.0  # for one answer
MOST = 256 << 20  # bytes of an answer
TOGETHER = 16  # prompts of a request
CLOSE = 0.05  # nats; batches and caches of servers round differently
PROBE = "The capital of France is Paris, and the capital of Italy is"
LEFT_OUT = -9000.0  # what servers write for a probability of zero


class Server:
    """Raises RequestError for an address that is none, or a server that does not answer; it names the address."""

    def __init__(self, url: str, *, seconds: float = SECONDS) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise RequestError(f"{url}: is not an address such as http://127.0.0.1:8000/v1")
        self.url = url.rstrip("/").removesuffix("/completions")
        self.url += "" if urlsplit(self.url).path else "/v1"
        self.seconds, self._tested = seconds, False
        listed = self._send("models", None).get("data")
        if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict) or "id" not in listed[0]:
            raise RequestError(f"{self.url}/models: lists no model")
        self.model = str(listed[0]["id"])
        self.name, self.identity = f"{self.model} at {self.url}", f"{self.url} {self.model}"

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """See `Answerer`. Raises RequestError for a server whose log-probabilities are missing or wrong."""
        if not self._tested:
            self._test()
            self._tested = True
        out: list[tuple[float, bool]] = []
        for start in range(0, len(pairs), TOGETHER):
            part = pairs[start : start + TOGETHER]
            tokens = self._echoed([context + continuation for context, continuation in part])
            for (context, _), own in zip(part, tokens, strict=True):
                border = len(context.rstrip())
                chosen = [one for one in own if one[0] > border]
                if not chosen or any(value is None for _, value, _ in chosen):
                    raise RequestError(f"{self.url}: gives no log-probability for a text's first token; use a prompt")
                out.append((math.fsum(v for _, v, _ in chosen if v is not None), all(best for _, _, best in chosen)))
        return out

    def generate(self, prompts: Sequence[str], stop: Sequence[str], length: int, chat: bool) -> list[str]:
        """See `Answerer`."""
        out: list[str] = []
        # servers take four stop texts at most; the rest is cut here
        body = {"max_tokens": length, "temperature": 0, **({"stop": list(stop[:4])} if stop else {})}
        for start in range(0, len(prompts), 1 if chat else TOGETHER):
            part = prompts[start : start + (1 if chat else TOGETHER)]
            if chat:
                found = self._ask("chat/completions", {**body, "messages": [{"role": "user", "content": part[0]}]}, 1)
                texts = [choice.get("message", {}).get("content") for choice in found]
            else:
                texts = [one.get("text") for one in self._ask("completions", {**body, "prompt": list(part)}, len(part))]
            for text in texts:
                if not isinstance(text, str):
                    raise RequestError(f"{self.url}: answers with {shown(text)} where text was expected")
                out.append(text[: min((at for s in stop if (at := text.find(s)) >= 0), default=len(text))])
        return out

    def _echoed(self, texts: Sequence[str]) -> list[list[tuple[int, float | None, bool]]]:
        """Of each text's tokens: the character that it ends before, its log-probability, whether it is the best."""
        body = {"prompt": list(texts), "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        found = self._ask("completions", body, len(texts))
        return [self._tokens(choice, text) for choice, text in zip(found, texts, strict=True)]

    def _tokens(self, choice: dict[str, Any], text: str) -> list[tuple[int, float | None, bool]]:
        missing = f"{self.url}: does not return log-probabilities of the prompt (echo with logprobs)"
        table = choice.get("logprobs")
        if not isinstance(table, dict) or not str(choice.get("text", "")).startswith(text):
            raise RequestError(
                f"{missing}; multiple choice needs them: start it so that it does, or use another server"
            )
        tokens, values, tops = (table.get(key) or [] for key in ("tokens", "token_logprobs", "top_logprobs"))
        starts = table.get("text_offset")
        if not isinstance(starts, list):  # as vLLM's and others' texts of tokens say
            starts = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
        if not tokens or len({len(tokens), len(values), len(starts)}) != 1:
            raise RequestError(f"{missing}: it gives {len(tokens)} tokens and {len(values)} log-probabilities")
        if starts[0]:
            raise RequestError(f"{missing}: they begin after {starts[0]:,} characters; is the prompt too long for it?")
        out: list[tuple[int, float | None, bool]] = []
        for place, (begin, value) in enumerate(zip(starts, values, strict=True)):
            end = starts[place + 1] if place + 1 < len(starts) else len(str(choice["text"]))
            if begin >= len(text):
                break
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if (value is None and place) or (value is not None and not (number and value <= 1e-3)):
                raise RequestError(f"{missing}: token {place} has {shown(value)}, which is no log-probability")
            top = tops[place] if place < len(tops) and isinstance(tops[place], dict) else {}
            best = value is not None and value >= max(top.values(), default=value) - 1e-9
            out.append((min(end, len(text)), value if value is None else float(value), best))
        if not out or out[-1][0] < len(text):
            raise RequestError(f"{missing}: its tokens end before the text does")
        return out

    def _test(self) -> None:
        """Raises RequestError for a server whose log-probabilities cannot be those of the text."""
        middle, wrong = PROBE.index(" and"), f"{self.url}: its log-probabilities are not those of the text"
        whole, first = self._echoed([PROBE])[0], self._echoed([PROBE[:middle]])[0]
        both = [(a[1], b[1]) for a, b in zip(whole, first, strict=False) if a[0] == b[0] and a[0] < middle]
        if any((a is None) != (b is None) or (a is not None and abs(a - b) > CLOSE) for a, b in both if b is not None):
            raise RequestError(f"{wrong}: the same beginning has others when more text follows")
        known = [value for _, value, _ in whole if value is not None]
        if len(known) < 2 or len({round(value, 3) for value in known}) < 2 or min(known) < LEFT_OUT:
            raise RequestError(f"{wrong}: all tokens have the same one, or none")
        body = {"prompt": [PROBE], "max_tokens": 3, "temperature": 0, "logprobs": 1}
        choice = self._ask("completions", body, 1)[0]
        table, text = choice.get("logprobs") or {}, choice.get("text")
        said = [value for value in table.get("token_logprobs") or [] if value is not None]
        if not isinstance(text, str) or not said:
            raise RequestError(f"{self.url}: gives no log-probabilities of what it generates")
        if not text.strip() or not text.isascii():  # an end of text, or bytes of a character: nothing to send back
            return
        again = [value for end, value, _ in self._echoed([PROBE + text])[0] if end > len(PROBE) and value is not None]
        if len(again) == len(said) and any(abs(a - b) > CLOSE for a, b in zip(again, said, strict=True)):
            raise RequestError(f"{wrong}: what it generates has others when it is sent back as a prompt")

    def _ask(self, path: str, body: dict[str, Any], count: int) -> list[dict[str, Any]]:
        choices = self._send(path, {"model": self.model, **body}).get("choices")
        if not isinstance(choices, list) or len(choices) != count or not all(isinstance(c, dict) for c in choices):
            raise RequestError(f"{self.url}/{path}: does not answer with {count} choices; is it OpenAI-compatible?")
        return sorted(choices, key=lambda choice: choice.get("index", 0))

    def _send(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        place = f"{self.url}/{path}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(place, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.seconds) as reply:
                found = reply.read(MOST + 1)
        except urllib.error.HTTPError as error:
            detail = error.read(2000).decode("utf-8", "replace")
            raise RequestError(f"{place}: refuses with status {error.code} ({shown(detail)})") from None
        except (OSError, ValueError) as error:
            raise RequestError(f"{place}: cannot be reached ({getattr(error, 'reason', error)})") from None
        try:
            answer = json.loads(found) if len(found) <= MOST else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise RequestError(f"{place}: does not answer with JSON of at most {MOST >> 20} MiB")
        return answer
