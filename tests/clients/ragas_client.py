import asyncio
import sys

from openai import AsyncOpenAI
from ragas.llms import llm_factory
from ragas.metrics import DiscreteMetric

url, name = sys.argv[1:]
model = llm_factory(name, client=AsyncOpenAI(base_url=f"{url}/v1", api_key="unused"), temperature=0, max_tokens=200)
metric = DiscreteMetric(
    name="right", allowed_values=["yes", "no"], prompt="Is the answer right? Question: {question} Answer: {answer}"
)
found = asyncio.run(metric.ascore(llm=model, question="What is the capital of France?", answer="Paris"))
assert found.value in ("yes", "no")
print("done: schema")
