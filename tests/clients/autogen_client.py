import asyncio
import sys

from autogen_core import CancellationToken
from autogen_core.models import UserMessage
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient


async def weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}"


async def main(url: str, name: str) -> None:
    can = {
        "vision": False,
        "function_calling": True,
        "json_output": True,
        "family": "unknown",
        "structured_output": True,
    }
    client = OpenAIChatCompletionClient(
        model=name, base_url=f"{url}/v1", api_key="unused", model_info=can, temperature=0, max_tokens=60
    )
    hello = [UserMessage(content="Say hello.", source="user")]
    whole = (await client.create(hello)).content
    parts = [part async for part in client.create_stream(hello)]
    assert whole and "".join(part for part in parts if isinstance(part, str)) == whole
    tool = FunctionTool(weather, description="The weather of a city")
    asked = [UserMessage(content="What is the weather in Oslo?", source="user")]
    called = await client.create(asked, tools=[tool], tool_choice="required", cancellation_token=CancellationToken())
    assert called.content[0].name == "weather"
    await client.close()


asyncio.run(main(*sys.argv[1:]))
print("done: chat, stream, tools")
