import os
import sys

os.environ.update(DEEPEVAL_TELEMETRY_OPT_OUT="YES", DEEPEVAL_RESULTS_FOLDER="")
from deepeval.metrics import GEval
from deepeval.models import LocalModel
from deepeval.test_case import LLMTestCase, SingleTurnParams

url, name = sys.argv[1:]
model = LocalModel(model=name, base_url=f"{url}/v1", api_key="unused", temperature=0, format="json")
assert model.generate("Say hello.")[0]
metric = GEval(
    name="right", evaluation_steps=["Check whether the answer is right."], model=model, async_mode=False,
    evaluation_params=[SingleTurnParams.INPUT, SingleTurnParams.ACTUAL_OUTPUT],
)  # fmt: skip
metric.measure(LLMTestCase(input="What is 2 + 2?", actual_output="4"), _show_indicator=False)
assert 0 <= metric.score <= 1
print("done: chat, judge")
