import sys
import tempfile

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool


@tool
def weather():
    async def execute(city: str) -> str:
        """The weather of a city.

        Args:
            city: its name
        """
        return f"Rain in {city}"

    return execute


url, name = sys.argv[1:]
model = get_model(f"openai-api/own/{name}", base_url=f"{url}/v1", api_key="unused")
rows = [Sample(input="What is the capital of France?", target="Paris")]
with tempfile.TemporaryDirectory() as logs:
    for solver in ([generate()], [use_tools(weather()), generate(tool_calls="single")]):
        task = Task(dataset=rows, solver=solver, scorer=includes())
        log = eval(task, model=model, log_dir=logs, display="none", max_tokens=60, temperature=0)[0]
        assert log.status == "success", log.error
print("done: chat, tools")
