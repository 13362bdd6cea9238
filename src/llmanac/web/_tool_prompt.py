"""Tools for models whose chat template has no form of calls: they are described in a message.

The calls are written as Hermes and Qwen write them, and are constrained to the functions' parameters. Earlier calls and
their results are told as text, in turns that every template has.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

PROMPT = """You can call functions. These are the functions, one on a line:
{tools}
To call a function, write its call in this form, and nothing behind it:
<tool_call>
{{"name": "the function's name", "arguments": {{its arguments, as JSON}}}}
</tool_call>
The result then comes in <tool_response>. If no function is needed, answer without a call."""


def prompted(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conversation with the functions described in its system message, or else in the user's first one."""
    out: list[dict[str, Any]] = []
    for message in messages:
        told = _told(message)
        if out and out[-1]["role"] == told["role"] == "user":  # templates want turns in turn
            out[-1]["content"] = _joined(out[-1]["content"], told["content"])
        else:
            out.append(told)
    if tools:
        described = PROMPT.format(tools="\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools))
        first = next((m for m in out if m["role"] in ("system", "user")), None)
        if first is None:
            out.insert(0, {"role": "user", "content": described})
        elif first["role"] == "system":
            first["content"] = _joined(first["content"], described)
        else:
            first["content"] = _joined(described, first["content"])
    return out


def _told(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message in a role that every template has."""
    content = message.get("content") or ""
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    told = {name: value for name, value in message.items() if name not in ("tool_calls", "tool_call_id")}
    calls = [
        f'<tool_call>\n{{"name": "{call["function"]["name"]}", "arguments": '
        f"{json.dumps(call['function']['arguments'], ensure_ascii=False)}}}\n</tool_call>"
        for call in message.get("tool_calls", ())
    ]
    return {**told, "content": "\n".join([*([content] if content else []), *calls]) if calls else content}


def _joined(first: Any, second: Any) -> Any:
    """Two contents as one: texts, or lists of parts where there are images."""
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}" if first and second else first or second
    return [*_parts(first), *_parts(second)]


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
