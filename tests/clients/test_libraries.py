"""Libraries for programs with models: loops with a tool that writes a file, whole and streamed, and typed answers."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.programs import CLIENT, NODE, Desk, python
from tests.conftest import Start
from tests.fake_engine import Call, FakeEngine, Script
from tests.fake_engine.bodies import Json
from tests.fake_engine.scripts import tools
from tests.support.gateways import RunningGateway

pytestmark = CLIENT

HERE = Path(__file__).parent
END = "The file hello.txt is written."
CITY = json.dumps({"city": "Paris"})


class Task(Script):
    """Writes the file; what asks for an answer after a schema gets one."""

    def reply(self, request: Json) -> Call | str:
        typed = "response_format" in request or (request.get("output_config") or {}).get("format")
        typed = typed or (request.get("text") or {}).get("format", {}).get("type") == "json_schema"
        if typed:
            return CITY
        # Where a client does not know that a model has structured output, it makes a tool of the schema.
        made = tools(request) & {"final_result", "json"}
        return Call(made.pop(), CITY) if made else super().reply(request)


@dataclass(frozen=True)
class Library:
    """A program, and what it prints: for each API the text of a whole and of a streamed loop, and more."""

    command: tuple[Path | str, ...]
    apis: tuple[str, ...]
    more: tuple[str, ...] = ("structured",)


def program(name: str, venv: str = "clients") -> tuple[Path, Path]:
    return python(venv=venv), HERE / "python" / name


LIBRARIES = {
    "langchain": Library(program("langchain_agent.py"), ("chat", "responses", "messages")),
    "llama-index": Library(program("llama_index_agent.py", "clients-aider"), ("chat", "responses"), ()),
    "pydantic-ai": Library(program("pydantic_ai_agent.py"), ("chat", "responses", "messages")),
    "openai-agents": Library(program("openai_agents_agent.py"), ("chat", "responses")),
    "litellm": Library(program("litellm_agent.py"), ("chat", "vllm", "messages"), ("again",)),
    "ai-sdk": Library(
        ("node", NODE / "ai_sdk_agent.mjs"),
        ("compatible", "chat", "responses", "messages"),
        ("again", "structured"),
    ),
}
SAID = {"whole": END, "streamed": END, "again": END, "structured": "Paris"}


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
async def test_a_library_runs_a_loop(library: Library, gateway: RunningGateway, engine: FakeEngine, desk: Desk) -> None:
    call = Call("write_file", json.dumps({"path": str(desk.work / "hello.txt"), "content": "hello\n"}))
    engine.agent = Task((call,), END)
    done = await desk.run(*library.command, f"http://127.0.0.1:{gateway.port}", "qwen3-8b")
    print([(line["endpoint"], line["status"], line["code"]) for line in gateway.lines])
    assert done.status == 0, done
    wanted = {f"{api} {what}: {SAID[what]}" for api in library.apis for what in ("whole", "streamed", *library.more)}
    assert wanted <= set(done.stdout.splitlines()), done
    assert (desk.work / "hello.txt").read_text() == "hello\n"
    assert {line["outcome"] for line in gateway.lines} == {"complete"}


async def test_litellm_ranks_as_three_vendors_have_it(start: Start, desk: Desk) -> None:
    gateway = await start("models: [{model: acme/tiny-reranker, id: ranker}]")
    done = await desk.run(*program("litellm_rerank.py"), f"http://127.0.0.1:{gateway.port}", "ranker")
    assert done.status == 0, done
    assert {f"{api} ranked: [1, 2]" for api in ("hosted_vllm", "cohere", "jina_ai")} <= set(done.stdout.splitlines())
    assert [line["endpoint"] for line in gateway.lines] == ["/rerank", "/v2/rerank", "/v1/rerank"]
