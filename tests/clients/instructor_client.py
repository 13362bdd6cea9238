import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int


url, model = sys.argv[1:]
ask = [{"role": "user", "content": "Ann is 31 years old. Extract her name and age."}]
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    client = instructor.from_openai(OpenAI(base_url=f"{url}/v1", api_key="unused"), mode=mode)
    given = {"model": model, "response_model": Person, "messages": ask, "max_tokens": 60, "temperature": 0}
    found = client.chat.completions.create(**given, max_retries=0)
    assert isinstance(found, Person), mode
partial = list(client.chat.completions.create_partial(**given))
assert partial[-1].age == found.age
print("done: tools, schema, stream")
