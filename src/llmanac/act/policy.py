"""A model as a policy: it reads the conversation and writes the next tool call, constrained to the tools' grammar.

Where the model's chat template has Hermes' or Llama 3's form of tool calls, that is what it reads. For any other model
the conversation is written out line by line, calls in Hermes' form.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmanac.act.episodes import Episode
from llmanac.core.errors import DataError, SpecError
from llmanac.core.rng import numpy_generator
from llmanac.generate.constrain.tools import FORMS, FunctionCall, calls_grammar, form_of, parse_calls
from llmanac.generate.engine import Engine


class ModelPolicy:
    """See the module.

    Args:
        tools: of the environment; temperature: of sampling; tokens: of the longest call.
        constrained: whether only calls that the tools allow can be written. Without it a text that is no call ends the
            episode.

    Raises:
        SpecError: an engine without a tokenizer, or tools whose schemas cannot be a grammar.
    """

    def __init__(
        self, engine: Engine, tools: Sequence[Mapping[str, Any]], *, temperature: float = 1.0, tokens: int = 96,
        constrained: bool = True,
    ) -> None:  # fmt: skip
        if engine.tokenizer is None:
            raise SpecError("act: this engine has no tokenizer")
        self.engine, self.tools, self.temperature, self.tokens = engine, tools, temperature, tokens
        found = form_of(engine.chat_template)
        self.chat, self.form = found is not None, found or "hermes"
        self.grammar = calls_grammar(tools, self.form)
        form = FORMS[self.form]
        self.options: dict[str, Any] = {"grammar": self.grammar} if constrained else {}
        if not constrained and form.end:
            self.options = {"stop": (form.end,)}
        self.options["shown_ids"] = sorted(form.special(engine.tokenizer.special_tokens))

    def __call__(self, episodes: Sequence[Episode], number: int, seed: int) -> list[FunctionCall | None]:
        requests = []
        for episode in episodes:
            own = int(numpy_generator(seed, "act", episode.seed, number).integers(1 << 62))
            requests.append((self.prompt(episode.messages), {"seed": own}))
        done = self.engine.sample(requests, temperature=self.temperature, max_new_tokens=self.tokens, **self.options)
        calls = []
        for episode, (ids, _), ((one,), _) in zip(episodes, requests, done, strict=True):
            logs = np.array([token.sampled for token in one.token_logprobs])
            episode.turns.append((tuple(ids), tuple(one.ids), logs))
            calls.append(self._read(one.text))
        return calls

    def _read(self, text: str) -> FunctionCall | None:
        """The call of a text; None where it is none that the tools allow."""
        end = FORMS[self.form].end
        try:
            (call,) = parse_calls(text if not end or end in text else text + end, self.form)
        except (DataError, ValueError):
            return None
        schemas = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in self.tools}
        return call if call.name in schemas and _allowed(call.arguments, schemas[call.name]) else None

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The token ids of a conversation, up to where the next call begins."""
        tokenizer = self.engine.tokenizer
        assert tokenizer is not None
        if self.chat:
            turns = [_as_template_reads(message) for message in messages]
            return [int(i) for i in tokenizer.chat_ids(turns, add_generation_prompt=True, tools=list(self.tools))]
        return [int(i) for i in tokenizer.encode("".join(self.written(message) for message in messages))]

    def written(self, message: Mapping[str, Any]) -> str:
        """A message as text, for models without a template."""
        if message.get("tool_calls"):
            return "".join(as_text(call["function"], self.form) + "\n" for call in message["tool_calls"])
        return f"{message['content']}\n"


def as_text(function: Mapping[str, Any], form: str = "hermes") -> str:
    """A call as a model writes it."""
    chosen = FORMS[form]
    arguments = json.dumps(json.loads(function["arguments"]), ensure_ascii=False)
    head, tail = chosen.written(function["name"])
    return f"{chosen.marker}{chosen.opening}{head}{arguments}{tail}{chosen.closing}"


def _as_template_reads(message: Mapping[str, Any]) -> dict[str, Any]:
    """Templates read the arguments of calls as tables, as the server gives them."""
    out = {**message, "content": message["content"] or ""}
    for call in out.get("tool_calls", ()):
        function = {**call["function"], "arguments": json.loads(call["function"]["arguments"])}
        out["tool_calls"] = [{**call, "function": function}]
    return out


def _allowed(arguments: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    """Whether arguments have the names that a schema needs, and values of its enums and bounds."""
    known = schema.get("properties", {})
    if set(arguments) - set(known) or set(schema.get("required", ())) - set(arguments):
        return False
    for name, value in arguments.items():
        own = known[name]
        if "enum" in own and value not in own["enum"]:
            return False
        if own.get("type") == "integer":
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole or not own.get("minimum", value) <= value <= own.get("maximum", value):
                return False
    return True
