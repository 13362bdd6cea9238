import os
import sys

os.environ.update(CREWAI_DISABLE_TELEMETRY="true", OTEL_SDK_DISABLED="true", CREWAI_TRACING_ENABLED="false")
from crewai import LLM, Agent, Crew, Task

url, name = sys.argv[1:]
model = LLM(model=f"openai/{name}", base_url=f"{url}/v1", api_key="unused", temperature=0, max_tokens=60)
assert model.call([{"role": "user", "content": "Say hello."}])
agent = Agent(role="greeter", goal="greet people", backstory="You are polite.", llm=model, verbose=False, max_iter=1)
task = Task(description="Greet Ann.", expected_output="one sentence", agent=agent)
assert Crew(agents=[agent], tasks=[task], verbose=False).kickoff().raw
print("done: chat, crew")
