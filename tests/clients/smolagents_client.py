import sys

from smolagents import OpenAIModel, tool


@tool
def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    return f"Rain in {city}"


url, name = sys.argv[1:]
model = OpenAIModel(model_id=name, api_base=f"{url}/v1", api_key="unused", temperature=0, max_tokens=60)
hello = [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}]
whole = model.generate(hello).content
assert whole and "".join(delta.content or "" for delta in model.generate_stream(hello)) == whole
asked = [{"role": "user", "content": [{"type": "text", "text": "What is the weather in Oslo?"}]}]
called = model.generate(asked, tools_to_call_from=[weather])
assert called.tool_calls[0].function.name == "weather"
print("done: chat, stream, tools")
