import sys

import outlines
from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


url, name = sys.argv[1:]
model = outlines.from_openai(OpenAI(base_url=f"{url}/v1", api_key="unused"), name)
assert model("Say hello.", max_tokens=20)
assert "".join(model.stream("Say hello.", max_tokens=20))
found = model("Ann is 31 years old. Extract her name and age as JSON.", Person, max_tokens=60)
assert Person.model_validate_json(found)
print("done: chat, stream, schema")
