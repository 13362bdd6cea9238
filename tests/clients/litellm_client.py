import json
import sys

import litellm

url, model = sys.argv[1:]
shared = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": "unused", "temperature": 0}
hello = [{"role": "user", "content": "Say hello."}]
whole = litellm.completion(**shared, messages=hello, max_tokens=20).choices[0].message.content
chunks = litellm.completion(**shared, messages=hello, max_tokens=20, stream=True)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole and whole
parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
asked = [{"role": "user", "content": "What is the weather in Oslo?"}]
called = litellm.completion(**shared, messages=asked, tools=tools, tool_choice="required", max_tokens=60)
assert "city" in json.loads(called.choices[0].message.tool_calls[0].function.arguments)
print("done: chat, stream, tools")
