import sys

import dspy

url, name = sys.argv[1:]
model = dspy.LM(f"openai/{name}", api_base=f"{url}/v1", api_key="unused", temperature=0, max_tokens=200, cache=False)
assert model("Say hello.")[0]
dspy.configure(lm=model, adapter=dspy.JSONAdapter())
found = dspy.Predict("question -> answer: str, sure: bool")(question="What is the capital of France?")
assert isinstance(found.answer, str) and isinstance(found.sure, bool)
print("done: chat, schema")
