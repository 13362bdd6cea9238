import asyncio
import sys

from openai import AsyncOpenAI
from ragas.llms import llm_factory
from ragas.metrics import DiscreteMetric

url, name = sys.argv[1:]
model = llm_factory(name, client=AsyncOpenAI(base_url=f"{url}/v1", api_key="unused"), temperature=0, max_tokens=200)
metric = DiscreteMetric(name="right", allowed_values=["yes", "no"], prompt="Is {answer} a city? Give yes or no.")
found = asyncio.run(metric.ascore(llm=model, answer="Paris"))
assert found.value in ("yes", "no")
print("done: schema")
