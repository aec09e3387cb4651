"""OpenAI's Agents SDK: an agent with a tool, and structured output, over two APIs.

Usage: openai_agents_agent.py URL MODEL.
"""

import asyncio
import sys
from pathlib import Path

from agents import (
    Agent,
    AsyncOpenAI,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)  # fmt: skip
from pydantic import BaseModel

URL, MODEL = sys.argv[1:]
QUESTION = "Write the word hello into hello.txt."


@function_tool
def write_file(path: str, content: str) -> str:
    """Write a file."""
    Path(path).write_text(content)
    return "written"


class City(BaseModel):
    city: str


async def main() -> None:
    set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"{URL}/v1", api_key="none")
    models = {
        "chat": OpenAIChatCompletionsModel(MODEL, client),
        "responses": OpenAIResponsesModel(MODEL, client),
    }
    for name, model in models.items():
        agent = Agent(name="Writer", instructions="Write files.", model=model, tools=[write_file])
        print(name, "whole:", (await Runner.run(agent, QUESTION)).final_output)
        streamed = Runner.run_streamed(agent, QUESTION)
        async for _ in streamed.stream_events():
            pass
        print(name, "streamed:", streamed.final_output)
        typed = Agent(name="Namer", model=model, output_type=City)
        print(name, "structured:", (await Runner.run(typed, "Which city?")).final_output.city)


asyncio.run(main())
