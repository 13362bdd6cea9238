import sys

import guidance
from guidance import assistant, gen, user
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


url, name = sys.argv[1:]
model = guidance.models.OpenAI(name, base_url=f"{url}/v1", api_key="unused", echo=False)
with user():
    model += "Say hello."
with assistant():
    model += gen("text", max_tokens=20)
assert model["text"]
model = guidance.models.OpenAI(name, base_url=f"{url}/v1", api_key="unused", echo=False)
with user():
    model += "Ann is 31 years old. Give her name and age as JSON."
with assistant():
    model += guidance.json("person", schema=Person, max_tokens=60)
assert Person.model_validate_json(model["person"])
print("done: chat, schema")
