"""A model behind a server: likelihoods by `echo` and `logprobs`, greedy text, and choices that are asked for in chats.

Some servers ignore `echo`, leave log-probabilities out, or give those of other tokens, and every choice looks equally
good. So a server is tested before its likelihoods are used: the text must come back as it was sent, each token with a
number, one text must have one likelihood however it is divided into context and continuation, and a token that the
server itself generates must have, when it is sent back, the log-probability that the server named for it.

Some ignore what holds an answer to choices, too. So a server is asked for something else first, held to two words that
no sentence has; where neither comes back, answers are read from the text.

A token belongs to the continuation if it ends after the context's last character that is no white space.

The forms in which servers are asked in chats: OpenAI's (llama.cpp's and vLLM's too), Ollama's, Anthropic's.

A form has several ways to hold an answer to one of some texts, of which a server knows one or none.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from llmanac.core.errors import RequestError, shown
from llmanac.core.progress import say_once
from llmanac.evaluate._choosing import held_answer
from llmanac.evaluate._requests import SECONDS, Requests

Held = Callable[[Sequence[str]], dict[str, Any]]


def schema_of(choices: Sequence[str]) -> dict[str, Any]:
    """A JSON Schema of an object whose `answer` is one of the choices."""
    answer = {"answer": {"type": "string", "enum": list(choices)}}
    return {"type": "object", "properties": answer, "required": ["answer"], "additionalProperties": False}


@dataclass(frozen=True)
class Form:
    """path: of chats; models: of the list of models, and where it names them; key_header, headers: of requests.

    body: fields of a request (model, messages, stop, length); text: where the text is; ended: where it says why
    the answer ended; tokens: where the numbers of tokens read and written are; held: by name, fields that hold an
    answer to choices; others: by name of a field what to send in its place to a server that refuses the request, one
    change after another; None leaves it out.
    """

    path: str
    models: tuple[str, str, str]
    body: Callable[[str, list[Any], list[str], int], dict[str, Any]]
    text: tuple[str | int, ...]
    ended: tuple[str | int, ...]
    tokens: tuple[tuple[str, ...], tuple[str, ...]]
    held: Mapping[str, Held]
    others: tuple[Mapping[str, str | None], ...]
    key_header: str = "Authorization"
    headers: Mapping[str, str] = field(default_factory=dict)


def _openai(model: str, messages: list[Any], stop: list[str], length: int) -> dict[str, Any]:
    plain = {"model": model, "messages": messages, "max_tokens": length, "temperature": 0}
    return {**plain, **({"stop": stop} if stop else {})}


def _ollama(model: str, messages: list[Any], stop: list[str], length: int) -> dict[str, Any]:
    options = {"temperature": 0, "num_predict": length, **({"stop": stop} if stop else {})}
    return {"model": model, "messages": messages, "stream": False, "options": options}


def _anthropic(model: str, messages: list[Any], stop: list[str], length: int) -> dict[str, Any]:
    stop = [one for one in stop if one.strip()]  # it refuses stop texts of white space
    plain = {"model": model, "messages": messages, "max_tokens": length, "temperature": 0}
    return {**plain, **({"stop_sequences": stop} if stop else {})}


def _schema_format(choices: Sequence[str]) -> dict[str, Any]:
    named = {"name": "choice", "strict": True, "schema": schema_of(choices)}
    return {"response_format": {"type": "json_schema", "json_schema": named}}


OPENAI = Form(
    "chat/completions", ("models", "data", "id"), _openai, ("choices", 0, "message", "content"),
    ("choices", 0, "finish_reason"),
    (("usage", "prompt_tokens"), ("usage", "completion_tokens")),
    # a bare choice first, as a model in this process is held: within JSON the same model chooses otherwise
    {"structured_outputs": lambda choices: {"structured_outputs": {"choice": list(choices)}},
     "guided_choice": lambda choices: {"guided_choice": list(choices)},
     "grammar": lambda choices: {"grammar": "root ::= " + " | ".join(json.dumps(one) for one in choices)},
     "response_format": _schema_format},
    ({"max_tokens": "max_completion_tokens"}, {"max_tokens": "max_completion_tokens", "temperature": None}),
)  # fmt: skip
OLLAMA = Form(
    "chat", ("tags", "models", "name"), _ollama, ("message", "content"), ("done_reason",),
    (("prompt_eval_count",), ("eval_count",)), {"format": lambda choices: {"format": schema_of(choices)}}, (),
)  # fmt: skip
ANTHROPIC = Form(
    "messages", ("models", "data", "id"), _anthropic, ("content",), ("stop_reason",),
    (("usage", "input_tokens"), ("usage", "output_tokens")),
    {"output_config": lambda choices: {"output_config": {"format": {
        "type": "json_schema", "schema": schema_of(choices)}}}},
    ({"temperature": None},), "x-api-key", {"anthropic-version": "2023-06-01"},
)  # fmt: skip
FORMS = {"/chat/completions": OPENAI, "/api/chat": OLLAMA, "/api": OLLAMA, "/messages": ANTHROPIC}  # by a path's end


def form_of(path: str) -> tuple[Form, str]:
    """`(form, path)` of an address's path: that of the form without what names it."""
    for end, form in FORMS.items():
        if path.endswith(end):
            return form, path.removesuffix("/" + form.path)
    return OPENAI, path.removesuffix("/completions") or "/v1"


def at(answer: Any, place: Sequence[str | int]) -> Any:
    """What an answer has at a place; None where it has nothing there. Of a list of blocks the joined texts."""
    for step in place:
        try:
            answer = answer[step]
        except (KeyError, IndexError, TypeError):
            return None
    if isinstance(answer, list):
        texts = [str(one.get("text", "")) for one in answer if isinstance(one, dict) and one.get("type") == "text"]
        return "".join(texts) if texts else None
    return answer


TOGETHER = 16  # prompts of a request
CLOSE = 0.05  # nats; batches and caches of servers round differently
PROBE = "The capital of France is Paris, and the capital of Italy is"
LEFT_OUT = -9000.0  # what servers write for a probability of zero
CHAT_PROBE, WORDS = "Write a sentence about the sea.", ("Q7K", "Z4W")  # of which no sentence has one
CHOICE_LENGTH, READ_LENGTH = 32, 512  # most tokens of an answer that is held to choices, and of one that is read


class ServedModel:
    """Raises RequestError for an address that is none, or a server that does not answer; it names the address.

    Args:
        url: `http://host:port/v1`, `.../api` (Ollama's form) or `.../v1/messages` (Anthropic's); the model is what
            follows `#`, else the first one that the server lists.
        requests: how it is asked.
    """

    kept = 1  # answers in a chat that are kept together: they are slow, and may be paid for

    def __init__(self, url: str, *, seconds: float = SECONDS, requests: Requests | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise RequestError(f"{url}: is not an address such as http://127.0.0.1:8000/v1")
        self.form, path = form_of(parts.path.rstrip("/"))
        self.url = f"{parts.scheme}://{parts.netloc}{path}"
        self._tested = False
        self.requests = requests or Requests(seconds=seconds)
        self.held: str | None = None  # the way in which answers are held to choices; "" for none; None where not tested
        self.fields: Mapping[str, str | None] | None = None  # of those that the form sends, what this server accepts
        self.model = parts.fragment or self._first()
        self.name, self.identity = f"{self.model} at {self.url}", f"{self.url} {self.model}"

    def _first(self) -> str:
        path, listed, name = self.form.models
        found = at(self._send(path, None), (listed, 0, name))
        if not isinstance(found, str):
            raise RequestError(f"{self.url}/{path}: lists no model; name one behind the address: {self.url}#MODEL")
        return found

    def choose(self, prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str]:
        """See `Answerer`."""
        if self.held is None:
            self.held = next((way for way in self.form.held if self._holds(way)), "")
            how = f"holds answers to the choices ({self.held})" if self.held else "does not hold answers to choices"
            say_once(f"{self.url}: {how}" + ("" if self.held else "; they are read from its text"))
        length = CHOICE_LENGTH if self.held else READ_LENGTH
        return [self._chat(prompt, (), length, own) for prompt, own in zip(prompts, choices, strict=True)]

    def _holds(self, way: str) -> bool:
        self.held = way
        try:
            return held_answer(self._chat(CHAT_PROBE, (), CHOICE_LENGTH, WORDS), WORDS) is not None
        except RequestError as error:
            if error.code not in ("400", "404", "422", "501"):
                raise
            return False

    def _chat(self, prompt: str, stop: Sequence[str], length: int, choices: Sequence[str] = ()) -> str:
        """The answer to a user's message, before the first stop; held to the choices in the way that is known."""
        body = self.form.body(self.model, [{"role": "user", "content": prompt}], list(stop[:4]), length)
        body |= self.form.held[self.held](choices) if choices and self.held else {}
        answer = self._accepted(body)
        text = at(answer, self.form.text)
        if not text and isinstance(at(answer, self.form.ended), str):  # refused, filtered, or all of it was thought
            return ""
        return self._before(answer if text is None else text, stop)

    def _accepted(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request, with other fields where the server refuses these; what it accepts first is kept."""
        ways = [self.fields] if self.fields is not None else [{}, *self.form.others]
        refused = None
        for fields in ways:
            names = {name: fields.get(name, name) for name in body}
            try:
                answer = self._send(self.form.path, {new: body[old] for old, new in names.items() if new})
            except RequestError as error:
                if error.code != "400":
                    raise
                refused = refused or error
                continue
            self.fields = fields
            if "temperature" in fields:
                say_once(f"{self.url}: refuses a temperature of 0; its answers are drawn, and another run gives others")
            return answer
        raise refused or AssertionError

    def _before(self, text: Any, stop: Sequence[str]) -> str:
        if not isinstance(text, str):
            raise RequestError(f"{self.url}: answers with {shown(text)} where text was expected")
        return text[: min((end for s in stop if (end := text.find(s)) >= 0), default=len(text))]

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool | None]]:
        """See `Answerer`. Raises RequestError for a server whose log-probabilities are missing or wrong."""
        if not self._tested:
            self._test()
            self._tested = True
        out: list[tuple[float, bool | None]] = []
        for start in range(0, len(pairs), TOGETHER):
            part = pairs[start : start + TOGETHER]
            tokens = self._echoed([context + continuation for context, continuation in part])
            for (context, _), own in zip(part, tokens, strict=True):
                border = len(context.rstrip())
                chosen = [one for one in own if one[0] > border]
                if not chosen or any(value is None for _, value, _ in chosen):
                    raise RequestError(f"{self.url}: gives no log-probability for a text's first token; use a prompt")
                best = None if None in (ones := [one for _, _, one in chosen]) else all(ones)
                out.append((math.fsum(v for _, v, _ in chosen if v is not None), best))
        return out

    def generate(self, prompts: Sequence[str], stop: Sequence[str], length: int, chat: bool) -> list[str]:
        """See `Answerer`."""
        if chat:
            return [self._chat(prompt, stop, length) for prompt in prompts]
        out: list[str] = []
        # servers take four stop texts at most; the rest is cut here
        body = {"max_tokens": length, "temperature": 0, **({"stop": list(stop[:4])} if stop else {})}
        for start in range(0, len(prompts), TOGETHER):
            part = prompts[start : start + TOGETHER]
            found = self._ask("completions", {**body, "prompt": list(part)}, len(part))
            out += [self._before(one.get("text"), stop) for one in found]
        return out

    def _echoed(self, texts: Sequence[str]) -> list[list[tuple[int, float | None, bool | None]]]:
        """Of each text's tokens: the character that it ends before, its log-probability, whether it is the best, if
        the server says so."""
        body = {"prompt": list(texts), "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        found = self._ask("completions", body, len(texts))
        return [self._tokens(choice, text) for choice, text in zip(found, texts, strict=True)]

    def _tokens(self, choice: dict[str, Any], text: str) -> list[tuple[int, float | None, bool | None]]:
        missing = f"{self.url}: does not return log-probabilities of the prompt (echo with logprobs)"
        table = choice.get("logprobs")
        if not isinstance(table, dict) or not str(choice.get("text", "")).startswith(text):
            raise RequestError(
                f"{missing}; multiple choice needs them: start it so that it does, or ask for letters with --chat"
            )
        tokens, values, tops = (table.get(key) or [] for key in ("tokens", "token_logprobs", "top_logprobs"))
        starts = table.get("text_offset")
        if not isinstance(starts, list):  # as vLLM's and others' texts of tokens say
            starts = [sum(map(len, tokens[:i])) for i in range(len(tokens))]
        if not tokens or len({len(tokens), len(values), len(starts)}) != 1:
            raise RequestError(f"{missing}: it gives {len(tokens)} tokens and {len(values)} log-probabilities")
        if starts[0]:
            raise RequestError(f"{missing}: they begin after {starts[0]:,} characters; is the prompt too long for it?")
        out: list[tuple[int, float | None, bool | None]] = []
        for place, (begin, value) in enumerate(zip(starts, values, strict=True)):
            end = starts[place + 1] if place + 1 < len(starts) else len(str(choice["text"]))
            if begin >= len(text):
                break
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if (value is None and place) or (value is not None and not (number and value <= 1e-3)):
                raise RequestError(f"{missing}: token {place} has {shown(value)}, which is no log-probability")
            top = tops[place] if place < len(tops) and isinstance(tops[place], dict) else {}
            best = value >= max(top.values()) - 1e-9 if top and value is not None else None
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
        if self.form is not OPENAI:
            raise RequestError(f"{self.url}: only chats are asked in this form; add --chat")
        answer = self._send(path, {"model": self.model, **body})
        choices = answer.get("choices")
        if not isinstance(choices, list) or len(choices) != count or not all(isinstance(c, dict) for c in choices):
            raise RequestError(f"{self.url}/{path}: does not answer with {count} choices; is it OpenAI-compatible?")
        return sorted(choices, key=lambda choice: choice.get("index", 0))

    def _send(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        answer = self.requests.send(f"{self.url}/{path}", body, self.form.headers, self.form.key_header)
        for name, place in zip(("read", "written"), self.form.tokens, strict=True):
            count = at(answer, place)
            self.requests.counts[name] += count if type(count) is int and count > 0 else 0
        return answer
