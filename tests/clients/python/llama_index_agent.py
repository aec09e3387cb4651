"""LlamaIndex: an agent with a tool, over two APIs. Usage: llama_index_agent.py URL MODEL."""

import asyncio
import sys
from pathlib import Path

from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.llms.openai import OpenAIResponses
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

URL, MODEL = sys.argv[1:]
QUESTION = "Write the word hello into hello.txt."


def write_file(path: str, content: str) -> str:
    """Write a file."""
    Path(path).write_text(content)
    return "written"


class City(BaseModel):
    city: str


async def main() -> None:
    context = {"context_window": 32768}
    chat = OpenAILike(
        model=MODEL, api_base=f"{URL}/v1", api_key="none", is_chat_model=True, is_function_calling_model=True,
        should_use_structured_outputs=True, **context,
    )  # fmt: skip
    responses = OpenAIResponses(model=MODEL, api_base=f"{URL}/v1", api_key="none", **context)
    for name, model in {"chat": chat, "responses": responses}.items():
        for streaming in (False, True):
            agent = FunctionAgent(tools=[write_file], llm=model, streaming=streaming)
            handler = agent.run(QUESTION)
            said = "".join([e.delta async for e in handler.stream_events() if isinstance(e, AgentStream)])
            answer = str(await handler)
            assert not streaming or said == answer, (said, answer)
            print(name, "streamed:" if streaming else "whole:", answer)
    city = await chat.as_structured_llm(City).acomplete("Which city?")
    print("chat structured:", city.raw.city)


asyncio.run(main())
