"""Request bodies: the fields that are read, with their bounds, and what happens to all others.

A field that would change the answer and is not supported is refused (400, `param` names it), unless its value requests
nothing. Every other field that is not read is named in the response header `x-llmanac-ignored`. `fields.toml` lists
both; a field in neither list is ignored and named.
"""

import json
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llmanac.generate.engine import Options
from llmanac.web._errors import ApiError

MAX_STOPS = 4
MAX_STOP = 1000  # characters of a stop string
MAX_CHOICES = 128  # n
MAX_TOP = 20  # alternatives a token
MAX_ROWS = 4096  # prompts times n of one request
MAX_TEXT = 500_000  # characters of text, or token ids, of one request
MAX_NAMED = 20  # fields in the header of what was ignored
MAX_COUNT = 2**31 - 1
MAX_BIASED = 4096  # tokens of logit_bias
MAX_STRUCTURE = 2**16  # characters of a schema, regular expression, grammar, or all choices
MAX_INPUTS = 2048  # texts to embed

_FIELDS = tomllib.loads(Path(__file__).with_name("fields.toml").read_text("utf-8"))
Unsupported = Mapping[str, Sequence[Any]]  # name -> the values that request nothing; null is always one of them
UNSUPPORTED: Mapping[str, Unsupported] = _FIELDS["unsupported"]
UNREAD_BY_ASSISTANT: list[str] = _FIELDS["unread_by_assistant"]
WITHOUT_EFFECT: list[str] = _FIELDS["without_effect"]


def whole(value: Any) -> Any:
    """`16.0` is the integer 16 in JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _whole_list(value: Any) -> Any:
    return [whole(v) for v in value] if isinstance(value, list) and any(type(v) is float for v in value) else value


def _prompt(value: Any) -> Any:
    if isinstance(value, list) and value and isinstance(value[0], list):
        return [_whole_list(v) for v in value]
    return _whole_list(value)


Count = Annotated[int, Field(ge=0, le=MAX_COUNT), BeforeValidator(whole)]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)]
Text = Annotated[str, Field(max_length=MAX_TEXT)]
TokenKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$")]  # a token id as JSON writes a key
NAME = r"^[a-zA-Z0-9_-]{1,64}$"
ModelName = Annotated[str, Field(min_length=1)]
Temperature = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
TopK = Annotated[int, Field(ge=-1, le=MAX_COUNT), BeforeValidator(whole)]
TypicalP = Annotated[float, Field(gt=0, le=1)]
Repetition = Annotated[float, Field(ge=0.01, le=100)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63), BeforeValidator(whole)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP)]
Stops = Annotated[list[Stop], Field(max_length=MAX_STOPS)]


def same(value: Any, other: Any) -> bool:
    """Equality of JSON: true is not 1."""
    return (isinstance(value, bool) == isinstance(other, bool)) and bool(value == other)


def refuse(fields: Mapping[str, Any], unsupported: Unsupported, where: str = "") -> None:
    """Raise ApiError for the first field that asks for something which is not supported."""
    for name, value in fields.items():
        neutral = unsupported.get(name)
        if neutral is None or value is None or any(same(value, v) for v in neutral):
            continue
        path = where + name
        raise ApiError(400, f"{path}: not supported by this server; leave it out", code="unsupported")


def header_of(ignored: list[str]) -> dict[str, str]:
    """The response header that names what was ignored; none where nothing was."""
    if not ignored:
        return {}
    named = [quote(name[:60], safe="[]=") or "(empty)" for name in ignored[:MAX_NAMED]]
    more = [f"and {len(ignored) - MAX_NAMED} more"] if len(ignored) > MAX_NAMED else []
    return {"x-llmanac-ignored": ", ".join(named + more)}


class Sent(BaseModel):
    """A JSON object from a client: known fields are checked strictly, unknown ones are kept in `model_extra`."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=(), hide_input_in_errors=True)
    unsupported: ClassVar[Unsupported] = {}

    def check(self, where: str = "") -> None:
        """Raise ApiError for what would change the answer and is not supported."""
        refuse(self.model_extra or {}, self.unsupported, where)

    def ignored(self) -> list[str]:
        """Names of the fields that were sent and are not read, those of inner objects behind a dot."""
        own = {k for k, v in (self.model_extra or {}).items() if v is not None and k not in self.unsupported}
        inner = ((name, getattr(self, name)) for name in type(self).model_fields)
        each = ((name, part) for name, found in inner for part in (found if isinstance(found, list) else [found]))
        nested = {f"{name}.{unread}" for name, part in each if isinstance(part, Sent) for unread in part.ignored()}
        return [*sorted(own), *sorted(nested)]


S = TypeVar("S", bound=Sent)


def read(kind: type[S], data: bytes) -> S:
    """A body from its bytes. Raises ValidationError, or ApiError where an object has a key twice."""
    body = kind.model_validate_json(data)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ApiError(400, f"{twice[:60]}: the body has this key twice; leave one out", param=twice[:60])
        return found

    json.loads(data, object_pairs_hook=once)
    return body


class StreamOptions(Sent):
    include_usage: bool | None = None


class NamedSchema(Sent):
    name: Annotated[str, Field(pattern=NAME)] | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | bool, Field(alias="schema")] = Field(default_factory=dict)
    strict: bool | None = None


class ResponseFormat(Sent):
    """`response_format`: JSON in place of text, any object or what a schema says."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class Structured(Sent):
    """`structured_outputs`: what the text must be; exactly one of the fields. `choice`: one of these texts."""

    json_: Annotated[dict[str, Any] | str | bool | None, Field(alias="json")] = None
    regex: Annotated[str, Field(min_length=1)] | None = None
    grammar: Annotated[str, Field(min_length=1)] | None = None
    choice: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_BIASED)] | None = (
        None
    )


class Sampling(Sent):
    """How tokens are drawn, by the names that all forms of requests share."""

    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    typical_p: TypicalP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    stop: Stop | Stops | None = None


class LocalSampling(Sampling):
    """The same by the names of llama.cpp and Ollama."""

    renamed: ClassVar = {"repeat_penalty": "repetition_penalty", "n_predict": "max_tokens", "num_predict": "max_tokens"}

    repeat_penalty: Repetition | None = None

    def drawn(self, defaults: Mapping[str, float], *further: str) -> dict[str, Any]:
        """What is given of sampling, and of `further` fields, by OpenAI's names; a negative length is no bound."""
        own = {*LocalSampling.model_fields, *further}
        given = {**defaults, **self.model_dump(exclude_none=True, include=own)}
        found = {self.renamed.get(name, name): value for name, value in given.items()}
        if found.get("max_tokens", 0) < 0:
            del found["max_tokens"]
        return found


class Body(Sampling):
    """What both endpoints take. What other servers take too and OpenAI does not: top_k, min_p, typical_p,
    repetition_penalty, stop_token_ids, ignore_eos, min_tokens, prompt_logprobs, structured_outputs, and timeout, the
    seconds after which the request is given up."""

    model: ModelName
    max_tokens: Count | None = None
    repetition_penalty: Repetition | None = None
    logit_bias: (
        Annotated[dict[TokenKey, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=MAX_BIASED)] | None
    ) = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), BeforeValidator(whole)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES), BeforeValidator(whole)] | None = None
    stop_token_ids: Annotated[Ids, BeforeValidator(_whole_list)] | None = None
    ignore_eos: bool | None = None
    min_tokens: Count | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP), BeforeValidator(whole)] | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: Structured | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def check(self, where: str = "") -> None:
        super().check(where)
        if self.stream_options is not None:
            self.stream_options.check("stream_options.")
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise ApiError(400, f"best_of: {self.best_of} is less than n, {self.n}")
        if self.stream and self.best_of is not None and self.best_of > (self.n or 1):
            raise ApiError(400, "best_of: the best are known at the end only; leave out stream")
        if self.stream and self.prompt_logprobs is not None:
            raise ApiError(400, "prompt_logprobs: not in a stream; leave out one of the two")

    def ignored(self) -> list[str]:
        unread = ["stream_options"] if self.stream_options and not self.stream else []
        return [*super().ignored(), *unread]

    def options(self, eos_ids: frozenset[int]) -> Options:
        """Engine options, with OpenAI's defaults: temperature 1 and, without a seed, a fresh one."""
        options = Options(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p,
            top_k=self.top_k if self.top_k is not None and self.top_k > 0 else None,
            n=self.n or 1,
            seed=secrets.randbits(48) if self.seed is None else self.seed,
            stop=[self.stop] if isinstance(self.stop, str) else self.stop or [],
            min_p=self.min_p,
            typical_p=self.typical_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias={int(token): bias for token, bias in (self.logit_bias or {}).items()},
            min_new_tokens=self.min_tokens,
            prompt_logprobs=self.prompt_logprobs,
        )
        if self.ignore_eos or self.stop_token_ids:
            ends = () if self.ignore_eos else eos_ids
            options["stop_ids"] = [*ends, *(self.stop_token_ids or [])]
        return options


class CompletionBody(Body):
    """POST /v1/completions."""

    unsupported: ClassVar = {**UNSUPPORTED["both"], **UNSUPPORTED["completion"]}

    prompt: Annotated[
        Text
        | Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_ROWS)]
        | Annotated[Ids, Field(min_length=1)]
        | Annotated[list[Ids], Field(fail_fast=True, min_length=1, max_length=MAX_ROWS)],
        BeforeValidator(_prompt),
    ] = ""
    suffix: Text | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP), BeforeValidator(whole)] | None = None
    return_tokens_as_token_ids: bool | None = None

    def prompts(self) -> list[str | list[int]]:
        """The prompts, one or several. Raises ApiError for too many, or too much text."""
        one = isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int))
        prompts: list[Any] = [self.prompt] if one else list(self.prompt)
        if len(prompts) * max(self.n or 1, self.best_of or 1) > MAX_ROWS:
            raise ApiError(400, f"prompt: more than {MAX_ROWS} completions in one request; send fewer")
        check_length("prompt", prompts)
        return prompts


class TokenizeBody(Sent):
    """POST /tokenize. `parse_special`: special tokens that are written in the text become their ids."""

    model: ModelName | None = None
    prompt: Text
    add_special_tokens: bool = False
    parse_special: bool = True


class DetokenizeBody(Sent):
    """POST /detokenize."""

    model: ModelName | None = None
    tokens: Annotated[Ids, Field(max_length=MAX_TEXT), BeforeValidator(_whole_list)]


class EmbeddingBody(Sent):
    """POST /v1/embeddings."""

    model: ModelName
    input: Annotated[
        Text
        | Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
        | Annotated[Ids, Field(min_length=1)]
        | Annotated[
            list[Annotated[Ids, Field(min_length=1)]], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)
        ],
        BeforeValidator(_prompt),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=MAX_COUNT), BeforeValidator(whole)] | None = None
    on_long: Literal["cut", "refuse"] | None = None


class Document(Sent):
    text: Text


class RerankBody(Sent):
    """POST /v1/rerank."""

    model: ModelName
    query: Annotated[Text, Field(min_length=1)]
    documents: Annotated[list[Text | Document], Field(fail_fast=True, min_length=1, max_length=MAX_INPUTS)]
    top_n: Annotated[int, Field(ge=1, le=MAX_COUNT), BeforeValidator(whole)] | None = None
    return_documents: bool | None = None


def check_length(field: str, texts: list[Any]) -> None:
    """Raise ApiError for more text, or more token ids, than one request may hold."""
    size = sum(map(len, texts))
    if size > MAX_TEXT:
        message = f"{field}: {size:,} characters or token ids are more than the {MAX_TEXT:,} of one request; send less"
        raise ApiError(400, message, code="text_too_long")
