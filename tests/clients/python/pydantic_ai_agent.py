"""pydantic-ai: an agent with a tool, and structured output, over three APIs. Usage: pydantic_ai_agent.py URL MODEL."""

import asyncio
import sys
from pathlib import Path

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

URL, MODEL = sys.argv[1:]
QUESTION = "Write the word hello into hello.txt."


class City(BaseModel):
    city: str


async def main() -> None:
    openai = OpenAIProvider(base_url=f"{URL}/v1", api_key="none")
    models = {
        "chat": OpenAIChatModel(MODEL, provider=openai),
        "responses": OpenAIResponsesModel(MODEL, provider=openai),
        "messages": AnthropicModel(MODEL, provider=AnthropicProvider(base_url=URL, api_key="none")),
    }
    for name, model in models.items():
        agent = Agent(model)

        @agent.tool_plain
        def write_file(path: str, content: str) -> str:
            """Write a file."""
            Path(path).write_text(content)
            return "written"

        print(name, "whole:", (await agent.run(QUESTION)).output)
        async with agent.run_stream(QUESTION) as streamed:
            print(name, "streamed:", await streamed.get_output())
        typed = Agent(model, output_type=NativeOutput(City) if name != "messages" else City)
        print(name, "structured:", (await typed.run("Which city?")).output.city)


asyncio.run(main())
