"""What a request gives its chat template besides messages: `chat_template_kwargs`, `reasoning_effort`."""

import json
import re
from typing import Any

from llmanac.web._errors import ApiError
from llmanac.web._thoughts import markers_of
from llmanac.web._wire import MAX_STRUCTURE
from llmanac.web._wire_chat import ChatBody

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
            message = f"chat_template_kwargs: {name[:60]!r} is no variable that a request may set"
            raise ApiError(400, message, param="chat_template_kwargs")
    if len(json.dumps(found)) > MAX_STRUCTURE:
        message = f"chat_template_kwargs: more than {MAX_STRUCTURE:,} characters"
        raise ApiError(400, message, param="chat_template_kwargs")
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
    return ApiError(400, message, param=field, code="unsupported")


def _reads(template: str | None, name: str) -> bool:
    return template is not None and re.search(rf"\b{name}\b", template) is not None
