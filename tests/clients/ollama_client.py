import json
import sys

import ollama

url, name = sys.argv[1:]
client = ollama.Client(host=url)
options = {"temperature": 0, "num_predict": 60}
hello = [{"role": "user", "content": "Say hello."}]
whole = client.chat(name, messages=hello, options=options).message.content
assert (
    whole and "".join(part.message.content for part in client.chat(name, hello, options=options, stream=True)) == whole
)
schema = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
asked = [{"role": "user", "content": "Ann is 31. How old is she, as JSON?"}]
assert isinstance(json.loads(client.chat(name, asked, format=schema, options=options).message.content)["age"], int)
assert client.generate(name, "Say hello.", options=options).response
assert any(one.model.startswith(name) for one in client.list().models)


def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    return f"Rain in {city}"


called = client.chat(
    name, [{"role": "user", "content": "What is the weather in Oslo?"}], tools=[weather], options=options
)
assert called.message.content or called.message.tool_calls
print("done: chat, stream, schema, tools")
