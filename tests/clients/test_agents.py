"""Coding agents do a task through the gateway: they run a command, change a file, and say that they are done."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from service.gateway.console.client_settings import CLIENTS
from tests.clients.conftest import CONTEXT
from tests.clients.programs import CLIENT, NODE, Desk, node, skip_if_missing
from tests.fake_engine import Call, FakeEngine, Script
from tests.support.gateways import RunningGateway

pytestmark = CLIENT

TASK = "Write the word hello into hello.txt."
END = "The file hello.txt is written."


@dataclass(frozen=True)
class Agent:
    """A program that `roundhouse connect` knows as `name`, and the words that start it.

    `path` is the endpoint that it asks. `calls` has, for the folder that it works in, the calls of its own tools.
    """

    name: str
    path: str
    command: tuple[str, ...]
    calls: Callable[[Path], tuple[Call, ...]]


def call(name: str, **arguments: object) -> Call:
    return Call(name, json.dumps(arguments))


def two(tool: str, key: str, more: Callable[[Path], Call]) -> Callable[[Path], tuple[Call, ...]]:
    """A command that leaves ran.txt behind, and one more call."""
    return lambda work: (call(tool, **{key: "echo one > ran.txt"}), more(work))


CLAUDE = Agent(
    "claude", "/v1/messages", ("claude", "-p", "--allowedTools=Bash,Write"),
    two("Bash", "command", lambda work: call("Write", file_path=str(work / "hello.txt"), content="hello\n")),
)  # fmt: skip
CODEX = Agent(
    "codex", "/v1/responses",
    ("codex", "exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"),
    two("exec_command", "cmd", lambda work: call("exec_command", cmd="echo hello > hello.txt")),
)  # fmt: skip
OPENCODE = Agent(
    "opencode", "/v1/chat/completions", ("opencode", "run", "--auto"),
    two("bash", "command", lambda work: call("write", filePath=str(work / "hello.txt"), content="hello\n")),
)  # fmt: skip
CONTINUE = Agent(
    "continue", "/v1/chat/completions", ("cn", "--auto", "-p"),
    two("Bash", "command", lambda work: call("Write", filepath=str(work / "hello.txt"), content="hello\n")),
)  # fmt: skip
CLINE = Agent(
    "cline", "/v1/chat/completions", ("cline", "-P", "openai", "-m", "qwen3-8b", "--auto-approve", "true"),
    lambda work: (
        call("run_commands", commands=["echo one > ran.txt"]),
        call("run_commands", commands=["echo hello > hello.txt"]),
    ),
)  # fmt: skip
AGENTS = {
    **{agent.name: agent for agent in (CLAUDE, CODEX, OPENCODE, CONTINUE, CLINE)},
    # A name that a program knows changes what it sends.
    "claude as claude-sonnet-5": replace(CLAUDE, command=(*CLAUDE.command, "--model", "claude-sonnet-5")),
    **{f"codex as {name}": replace(CODEX, command=(*CODEX.command, "-m", name)) for name in ("gpt-5", "gpt-5.5")},
}
APIS = {"@ai-sdk/openai": "/v1/responses", "@ai-sdk/anthropic": "/v1/messages"}


async def connect(name: str, desk: Desk, gateway: RunningGateway) -> None:
    """Follows `roundhouse connect`: the file that it writes, or the command that it prints."""
    write = ("--write",) if CLIENTS[name].file else ()
    connected = await desk.connect(name, f"http://127.0.0.1:{gateway.port}", *write)
    assert connected.status == 0, connected
    if not write:
        skip_if_missing((node(name),))
        path = f"{NODE / 'node_modules/.bin'}:{os.environ['PATH']}"
        done = await desk.run("sh", "-c", connected.stdout, PATH=path)
        assert done.status == 0, done


async def do_task(agent: Agent, gateway: RunningGateway, engine: FakeEngine, desk: Desk) -> None:
    """Runs the agent, and checks what it printed and what it left behind."""
    engine.agent = Script(agent.calls(desk.work), END)
    program, *options = agent.command
    done = await desk.run(node(program), *options, TASK)
    assert done.status == 0, done
    assert END in done.stdout, done
    assert (desk.work / "ran.txt").read_text() == "one\n"
    assert (desk.work / "hello.txt").read_text() == "hello\n"
    asked = [line for line in gateway.lines if line["endpoint"] == agent.path]
    assert len(asked) >= 3
    assert {line["outcome"] for line in asked} == {"complete"}


@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)
async def test_an_agent_does_its_task(agent: Agent, gateway: RunningGateway, engine: FakeEngine, desk: Desk) -> None:
    await connect(agent.name, desk, gateway)
    await do_task(agent, gateway, engine, desk)


@pytest.mark.parametrize("package", APIS)
async def test_opencode_over_another_api(package: str, gateway: RunningGateway, engine: FakeEngine, desk: Desk) -> None:
    await connect(OPENCODE.name, desk, gateway)
    settings = desk.home / str(CLIENTS[OPENCODE.name].file)
    settings.write_text(settings.read_text().replace("@ai-sdk/openai-compatible", package))
    await do_task(replace(OPENCODE, path=APIS[package]), gateway, engine, desk)


async def test_claude_code_shortens_its_conversation_in_time(
    gateway: RunningGateway, engine: FakeEngine, desk: Desk
) -> None:
    """It has been told how long the context is; each turn takes a third of that."""
    await connect(CLAUDE.name, desk, gateway)
    engine.agent = Script((), END)
    text = "Summarise: " + "word " * (CONTEXT // 3)
    for more in ((), ("--continue",), ("--continue",)):
        done = await desk.run(node("claude"), "-p", *more, text)
        assert done.status == 0, done
        assert END in done.stdout
    assert {line["outcome"] for line in gateway.lines} == {"complete"}
    assert {seen.json["max_tokens"] for seen in gateway.seen} == {CONTEXT // 4}


async def test_claude_code_answers_after_a_schema(gateway: RunningGateway, engine: FakeEngine, desk: Desk) -> None:
    """It makes a tool of the schema."""
    await connect(CLAUDE.name, desk, gateway)
    engine.agent = Script((call("StructuredOutput", city="Paris"),), END)
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    options = ("--output-format", "json", "--json-schema", json.dumps(schema))
    done = await desk.run(node("claude"), "-p", *options, "Which city?")
    assert done.status == 0, done
    assert json.loads(done.stdout)["structured_output"] == {"city": "Paris"}
    assert {line["outcome"] for line in gateway.lines} == {"complete"}
