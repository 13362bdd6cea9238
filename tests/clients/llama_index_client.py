import sys

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike


def weather(city: str) -> str:
    """The weather of a city."""
    return f"Rain in {city}"


url, name = sys.argv[1:]
model = OpenAILike(
    model=name, api_base=f"{url}/v1", api_key="unused", is_chat_model=True, is_function_calling_model=True,
    temperature=0, max_tokens=60,
)  # fmt: skip
hello = [ChatMessage(role="user", content="Say hello.")]
whole = model.chat(hello).message.content
assert whole and list(model.stream_chat(hello))[-1].message.content == whole
tools = [FunctionTool.from_defaults(weather)]
called = model.chat_with_tools(tools, user_msg="What is the weather in Oslo?", tool_required=True)
assert model.get_tool_calls_from_response(called)[0].tool_name == "weather"
print("done: chat, stream, tools")
