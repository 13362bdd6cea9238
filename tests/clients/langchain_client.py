import sys

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}"


url, name = sys.argv[1:]
model = ChatOpenAI(model=name, base_url=f"{url}/v1", api_key="unused", temperature=0, max_tokens=60)
whole = model.invoke("Say hello.").content
assert whole and "".join(chunk.content for chunk in model.stream("Say hello.")) == whole
called = model.bind_tools([weather], tool_choice="any").invoke("What is the weather in Oslo?")
assert called.tool_calls[0]["name"] == "weather" and "city" in called.tool_calls[0]["args"]
for method in ("json_schema", "function_calling"):
    found = model.with_structured_output(Person, method=method).invoke("Ann is 31. Extract her name and age.")
    assert isinstance(found, Person), method
print("done: chat, stream, tools, schema")
