import sys

from pydantic import BaseModel
from pydantic_ai import Agent, ModelSettings
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Person(BaseModel):
    name: str
    age: int


url, name = sys.argv[1:]
settings = ModelSettings(temperature=0, max_tokens=60)
for kind in (OpenAIChatModel, OpenAIResponsesModel):
    model = kind(name, provider=OpenAIProvider(base_url=f"{url}/v1", api_key="unused"))
    assert Agent(model, model_settings=settings).run_sync("Say hello.").output
    found = Agent(model, output_type=Person, model_settings=settings).run_sync("Ann is 31 years old.")
    assert isinstance(found.output, Person), kind
print("done: chat, tools, responses")
