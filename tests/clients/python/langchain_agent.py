"""LangChain: an agent with a tool, and structured output, over three APIs. Usage: langchain_agent.py URL MODEL."""

import sys
from pathlib import Path

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

URL, MODEL = sys.argv[1:]
QUESTION = {"messages": [{"role": "user", "content": "Write the word hello into hello.txt."}]}


@tool
def write_file(path: str, content: str) -> str:
    """Write a file."""
    Path(path).write_text(content)
    return "written"


class City(BaseModel):
    city: str


MODELS = {
    "chat": ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key="none"),
    "responses": ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key="none", use_responses_api=True),
    "messages": ChatAnthropic(model=MODEL, base_url=URL, api_key="none"),
}
for name, model in MODELS.items():
    agent = create_agent(model, [write_file])
    print(name, "whole:", agent.invoke(QUESTION)["messages"][-1].text)
    chunks = [chunk for chunk, _ in agent.stream(QUESTION, stream_mode="messages") if chunk.type == "AIMessageChunk"]
    print(name, "streamed:", "".join(chunk.text for chunk in chunks))
    city = model.with_structured_output(City, method="json_schema").invoke("Which city?")
    print(name, "structured:", city.city)
