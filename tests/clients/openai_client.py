"""The official client: chat, streams, tools, parsed schemas, responses, vectors."""

import json
import sys

from openai import OpenAI
from pydantic import BaseModel

url, model = sys.argv[1:]
client = OpenAI(base_url=f"{url}/v1", api_key="unused")
HELLO = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Person(BaseModel):
    name: str
    age: int


whole = client.chat.completions.create(model=model, messages=HELLO, temperature=0, max_tokens=20)
assert whole.choices[0].message.content and whole.usage.completion_tokens
options = {"stream": True, "stream_options": {"include_usage": True}}
chunks = list(client.chat.completions.create(model=model, messages=HELLO, temperature=0, max_tokens=20, **options))
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
assert text == whole.choices[0].message.content and chunks[-1].usage == whole.usage
asked = [{"role": "user", "content": "What is the weather in Oslo?"}]
called = client.chat.completions.create(
    model=model, messages=asked, tools=[WEATHER], tool_choice="required", max_tokens=60, temperature=0
)
call = called.choices[0].message.tool_calls[0]
assert call.function.name == "weather" and isinstance(json.loads(call.function.arguments)["city"], str)
told = [*asked, called.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "Rain, 8 degrees"}]
last = client.chat.completions.create(model=model, messages=told, tools=[WEATHER], max_tokens=60, temperature=0)
assert last.choices[0].message.content or last.choices[0].message.tool_calls
read = [{"role": "user", "content": "Ann is 31 years old. Give her name and age as JSON."}]
parsed = client.chat.completions.parse(model=model, messages=read, response_format=Person, max_tokens=60, temperature=0)
assert isinstance(parsed.choices[0].message.parsed, Person)
answer = client.responses.create(model=model, input="Say hello.", max_output_tokens=20, temperature=0)
assert answer.output_text == whole.choices[0].message.content
print("done: chat, stream, tools, schema, responses")
