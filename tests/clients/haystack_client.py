import sys

from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import Tool
from haystack.utils import Secret

url, name = sys.argv[1:]
shared = {"api_key": Secret.from_token("unused"), "api_base_url": f"{url}/v1", "model": name}
options = {"temperature": 0, "max_tokens": 60}
whole = OpenAIChatGenerator(**shared).run([ChatMessage.from_user("Say hello.")], generation_kwargs=options)
parts = []
OpenAIChatGenerator(**shared, streaming_callback=lambda chunk: parts.append(chunk.content)).run(
    [ChatMessage.from_user("Say hello.")], generation_kwargs=options
)
assert "".join(parts) == whole["replies"][0].text != ""
schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
tool = Tool(name="weather", description="The weather of a city", parameters=schema, function=lambda city: "rain")
called = OpenAIChatGenerator(**shared, tools=[tool]).run(
    [ChatMessage.from_user("What is the weather in Oslo?")], generation_kwargs={**options, "tool_choice": "required"}
)
assert called["replies"][0].tool_calls[0].tool_name == "weather"
print("done: chat, stream, tools")
