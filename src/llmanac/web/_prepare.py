"""From the bytes of a request to what the engine is asked: parsing, the chat template, tokenization.

Everything here may take long and runs in the `Pool`'s threads, never in the event loop. Whatever a text, a template or
a pattern does wrong is an error of the request (400) that names its field.

What a request gives its chat template besides messages: `chat_template_kwargs`, `reasoning_effort`.
"""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from llmanac.core.errors import LlmanacError
from llmanac.core.types import capabilities
from llmanac.generate.answers import reads_history
from llmanac.generate.engine import Engine
from llmanac.tokenizers import Tokenizer
from llmanac.web._errors import ApiError, Busy
from llmanac.web._infill import Gap, InfillBody, InfillReply, gap_of
from llmanac.web._logprobs import TokenTexts
from llmanac.web._replies import ChatReply, CompletionReply, Told
from llmanac.web._service import Prepared, Service
from llmanac.web._structured import calls_structure, constrain, structure_of
from llmanac.web._thoughts import Place, Thoughts, markers_of, place_of, thinking
from llmanac.web._tools import Calls, form_named, form_of, prompted
from llmanac.web._wire import MAX_STRUCTURE, Body, CompletionBody, DetokenizeBody, TokenizeBody, check_length, read
from llmanac.web._wire_chat import ROLES, TOOL_ROLES, ChatBody
from llmanac.web.assistant import prompt_of, questions_of

T = TypeVar("T", TokenizeBody, DetokenizeBody)
FIXED = (
    *("messages", "tools", "add_generation_prompt", "continue_final_message", "continues", "until"),
    *("bos_token", "eos_token", "pad_token", "unk_token"),
)
OFF = ("none", "minimal")


def variables_of(body: ChatBody, template: str | None) -> tuple[dict[str, Any], int | None]:
    """The template's variables that a request sets, and the tokens that a thought may have (None: no bound).

    `reasoning_effort` becomes the variable of this name where the template reads it, else `enable_thinking`, which
    `none` and `minimal` switch off. Of a model that always thinks, `none` and `minimal` close the thought at once.

    Raises:
        ApiError: names that are the server's to set, too much of them, or a model without thoughts.
    """
    found, budget = dict(body.chat_template_kwargs or {}), body.thinking_budget
    for name in found:
        if name in FIXED or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
            raise ApiError(400, f"chat_template_kwargs: {name[:60]!r} is no variable that a request may set")
    if len(json.dumps(found)) > MAX_STRUCTURE:
        raise ApiError(400, f"chat_template_kwargs: more than {MAX_STRUCTURE:,} characters")
    effort, thinks = body.reasoning_effort, markers_of(template) is not None
    if budget is not None and not thinks:
        raise _without_thoughts("thinking_budget")
    if effort is not None and _reads(template, "reasoning_effort"):
        found = {"reasoning_effort": effort, **found}
    elif effort is not None and _reads(template, "enable_thinking"):
        found = {"enable_thinking": effort not in OFF, **found}
    elif effort is not None and effort not in OFF and not thinks:
        raise _without_thoughts("reasoning_effort")
    elif effort in OFF and thinks:
        budget = 0
    return found, budget


def _without_thoughts(field: str) -> ApiError:
    message = f"{field}: this model's chat template has no thoughts; leave it out"
    return ApiError(400, message, code="unsupported")


def _reads(template: str | None, name: str) -> bool:
    return template is not None and re.search(rf"\b{name}\b", template) is not None


NO_CHAT = (
    "this model has no chat template, so it was not tuned to chat; use /v1/completions, which continues text (a recipe "
    "makes a run that chats by a [finetune] section)"
)
NO_IMAGES = "this model reads text alone; leave images out, or serve a model of images (llava, flamingo)"
PROMPTED = "hermes"


@contextlib.contextmanager
def blaming(name: str) -> Iterator[None]:
    """Errors inside are the fault of this field of the request, unless they name another one."""
    try:
        yield
    except (ApiError, Busy):
        raise
    except (LlmanacError, TimeoutError, RecursionError) as error:
        message, code = str(error) or "it takes too long to tokenize; send shorter text", None
        if isinstance(error, LlmanacError):
            code = error.code
            if error.field in (*Body.model_fields, "prompt", name):
                name, message = name if error.field == "prompt" else str(error.field), error.reason
        raise ApiError(400, f"{name}: {message}", code=code) from error


def completion(service: Service, data: bytes, until: float) -> Prepared:
    """What POST /v1/completions asks for."""
    return completion_asked(service, read(CompletionBody, data))


def infill(service: Service, data: bytes, until: float) -> Prepared:
    """What POST /infill asks for."""
    body, tokenizer = read(InfillBody, data), service.engine.tokenizer
    body.check()
    gap = gap_of(tokenizer, body.input_prefix, body.input_suffix, body.prompt, body.input_extra)
    fields = body.fields(body.model or service.model_name, _room(service.engine, len(gap.ids)))
    return completion_asked(service, CompletionBody.model_validate(fields), InfillReply, body.ignored(), gap)


def completion_asked(
    service: Service,
    body: CompletionBody,
    reply: Callable[..., CompletionReply] = CompletionReply,
    unread: list[str] | None = None,
    gap: Gap | None = None,
) -> Prepared:
    """What a text to continue asks for; `reply` and `unread` as for `chat_asked`, `gap` in place of a prompt."""
    engine = service.engine
    adapter = service.adapter_of(body.model)
    body.check()
    options = body.options(engine.eos_ids)
    options["adapter"] = adapter
    options["max_new_tokens"] = 16 if body.max_tokens is None else body.max_tokens
    options["logprobs"] = body.logprobs
    options["n"] = body.best_of or body.n or 1
    constrain(service, options, structure_of(body))
    if body.echo and body.logprobs is not None:
        options["prompt_logprobs"] = max(body.logprobs, body.prompt_logprobs or 0)
    prompts = body.prompts()
    if body.suffix:
        if len(prompts) != 1 or not isinstance(prompts[0], str) or body.echo:
            raise ApiError(400, "suffix: goes with one prompt, a text, and without echo")
        gap = gap_of(engine.tokenizer, prompts[0], body.suffix)
    if gap is not None:
        ends = options.get("stop_ids")  # none of them with ignore_eos
        prompts, options["stop_ids"] = [gap.ids], [*(engine.eos_ids if ends is None else ends), *gap.ends]
    with blaming("prompt"):
        requests = [engine.request(prompt, **options) for prompt in prompts]
    texts = TokenTexts(engine.tokenizer, as_ids=bool(body.return_tokens_as_token_ids))
    echo = [_text(p, texts) for p in prompts] if body.echo else None
    made = reply(adapter or service.model_name, requests, texts, echo=echo, logprobs=body.logprobs, best=body.n or 1)
    made.prompt_logprobs = body.prompt_logprobs
    return Prepared(body, requests, made, body.ignored() if unread is None else unread)


def chat(service: Service, data: bytes, until: float) -> Prepared:
    """What POST /v1/chat/completions asks for; rendering ends at `until` (of `time.monotonic`)."""
    return chat_asked(service, read(ChatBody, data), until)


def chat_asked(
    service: Service,
    body: ChatBody,
    until: float,
    reply: Callable[..., ChatReply] = ChatReply,
    unread: list[str] | None = None,
) -> Prepared:
    """What a conversation asks for, answered in the form of `reply`.

    Args:
        unread: fields of another API's request that were not read, where the body was made of one.
    """
    engine, assistant = service.engine, service.assistant
    adapter = service.adapter_of(body.model)
    body.check()
    template = None if assistant is not None else engine.chat_template
    own, markers = form_of(template), markers_of(template)
    form = own or PROMPTED  # where the template has no form of calls, they are described in a message
    body.check_messages(TOOL_ROLES if assistant is None else ROLES)
    messages, urls = body.conversation(), body.images()
    if urls and (assistant is not None or not capabilities(engine.model).sees):
        raise ApiError(400, f"{urls[0][0]}: {NO_IMAGES}", code="unsupported")
    options = body.options(engine.eos_ids)
    options["adapter"] = adapter
    asked, tools, marker = structure_of(body), [], ""
    special = engine.tokenizer.special_tokens if engine.tokenizer else {}
    told_apart = [] if markers is None else [special[m] for m in (markers.opening, markers.closing) if m in special]
    given, budget = ({}, None) if assistant is not None else variables_of(body, template)
    if assistant is None and body.callable_tools:
        tools = [tool.model_dump(exclude_none=True) for tool in body.callable_tools]
        check_length("tools", [json.dumps(tools, ensure_ascii=False)])
        if asked is None and body.chosen in (None, "auto"):
            marker = form_named(form).marker
        asked = calls_structure(form, tools, body, asked)
    options["shown_ids"] = sorted({*told_apart, *(form_named(form).special(special) if tools else ())})
    if assistant is None and own is None:
        messages = prompted(messages, tools)
    elif tools:
        given["tools"] = tools
    alternatives = (body.top_logprobs or 0) if body.logprobs else None
    ignored, limit, questions = body.ignored() if unread is None else unread, body.limit, None
    with blaming("messages"):
        if assistant is not None:
            questions = questions_of(messages)
            ignored = sorted({*ignored, *body.unread(history=reads_history(assistant))})
            limit = sys.maxsize if limit is None else limit  # the answer is as long as it is
            ids = prompt_of(assistant, engine, messages)
        else:
            if capabilities(engine.model).sees:
                from llmanac.web._images import open_images  # pixels need torch

                if body.continue_final_message or body.add_generation_prompt is False:
                    field = "continue_final_message" if body.continue_final_message else "add_generation_prompt"
                    raise ApiError(400, f"{field}: not with a model of images", code="unsupported")
                ids, options["images"] = cast(Any, engine.model).chat(messages, open_images(urls), until, **given)
            else:
                given |= {"continues": True} if body.continue_final_message else {}
                given["add_generation_prompt"] = body.add_generation_prompt is not False
                ids = _chat_ids(engine.tokenizer, messages, until, **given)
            options["logprobs"] = alternatives
            options["n"] = body.best_of or body.n or 1
    place: Place = "before" if markers is None else place_of(engine, markers, ids)
    around = None
    if markers is not None and place != "behind" and (asked is not None or budget is not None):
        around = thinking(engine, options, markers, place == "inside", budget)
    constrain(service, options, asked, marker=marker, around=around)
    options["max_new_tokens"] = _room(engine, len(ids)) if limit is None else limit
    with blaming("messages"):
        request = engine.request(ids, **options)
    texts = TokenTexts(engine.tokenizer, as_ids=bool(body.return_tokens_as_token_ids))
    names = [tool["function"]["name"] for tool in tools]
    most = 1 if body.parallel_tool_calls is False else None

    def told() -> Told:
        thoughts = None if markers is None else Thoughts(markers, place == "inside")
        return Told(thoughts, Calls(form, names, most) if names else None)

    closing: list[int] = [] if markers is None else markers.closing_ids(engine.tokenizer)
    made = reply(
        adapter or service.model_name,
        [request],
        texts,
        told=told,
        alternatives=alternatives,
        best=body.n or 1,
        closing_id=closing[0] if len(closing) == 1 else None,
    )
    made.prompt_logprobs = body.prompt_logprobs
    return Prepared(body, [request], made, ignored, questions)


def tokens(service: Service, data: bytes, until: float) -> tuple[dict[str, Any], list[str]]:
    """The reply to POST /tokenize, and what of the request was ignored."""
    body, tokenizer = _of_tokenizer(service, TokenizeBody, data)
    check_length("prompt", [body.prompt])
    with blaming("prompt"):
        ids = [int(i) for i in tokenizer.encode(body.prompt, special="all" if body.parse_special else "never")]
    if body.add_special_tokens and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
        ids = [tokenizer.bos_id, *ids]
    reply = {"tokens": ids, "count": len(ids), "max_model_len": service.engine.model.max_length}
    return reply, body.ignored()


def text_of_tokens(service: Service, data: bytes, until: float) -> tuple[dict[str, Any], list[str]]:
    """The reply to POST /detokenize: the text of the tokens, special tokens included."""
    body, tokenizer = _of_tokenizer(service, DetokenizeBody, data)
    wrong = next((i for i in body.tokens if i >= tokenizer.vocab_size), None)
    if wrong is not None:
        raise ApiError(400, f"tokens: {wrong} is not in the vocabulary of {tokenizer.vocab_size} tokens")
    return {"prompt": tokenizer.decode(body.tokens)}, body.ignored()


def _of_tokenizer(service: Service, kind: type[T], data: bytes) -> tuple[T, Tokenizer]:
    """A body that asks for the tokenizer alone, checked, and the tokenizer."""
    body, tokenizer = read(kind, data), service.engine.tokenizer
    body.check()
    if body.model is not None:
        service.adapter_of(body.model)
    if tokenizer is None:
        raise ApiError(400, "this server has no tokenizer")
    return body, tokenizer


def _text(prompt: str | list[int], texts: TokenTexts) -> str:
    """A prompt as text, for `echo`."""
    return prompt if isinstance(prompt, str) else b"".join(map(texts.bytes_of, prompt)).decode("utf-8", "replace")


def _chat_ids(tokenizer: Any, messages: list[dict[str, Any]], until: float, **variables: Any) -> list[int]:
    """The conversation as token ids, ready for the assistant's turn."""
    if tokenizer is None or tokenizer.chat_template is None:
        raise ApiError(400, f"messages: {NO_CHAT}", code="no_chat_template")
    return list(tokenizer.chat_ids(messages, until=until, **variables))


def _room(engine: Engine, prompt_tokens: int) -> int:
    """How many tokens an answer may have where the client set no limit: what is left of the context."""
    context = engine.model.max_length
    return 1024 if context is None else max(1, context - prompt_tokens)
