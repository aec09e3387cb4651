"""The images, built from the Dockerfile and by BentoML, and run as docs/containers.md says: they answer a chat.

`make image-test` runs it: it takes packages of two gigabytes, and half an hour.
"""

import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml

from bench.processes import free_port
from service.config.paths import ROOT
from tests.images import bento, build, contents
from tests.images.container import running

pytestmark = [
    pytest.mark.images,
    pytest.mark.skipif(build.missing() is not None, reason=str(build.missing())),
    pytest.mark.timeout(3600),
]

GATEWAY_BYTES = 240e6  # of what is installed on top of Debian's Python
ENGINE_KEY, API_KEY = "engine-key-0123456789", "rh_first-key-0123456789"
CHAT = {
    "model": "chat",
    "temperature": 0,
    "messages": [
        {"role": "user", "content": "Hello! My name is Zorvina."},
        {"role": "assistant", "content": "Nice to meet you, Zorvina!"},
        {"role": "user", "content": "What is my name?"},
    ],
}


@pytest.fixture(scope="module")
def gateway() -> str:
    return build.build("gateway")


@pytest.fixture(scope="module")
def engine() -> str:
    return build.build("engine-cpu")


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def ask(url: str) -> None:
    """Asks for the name; no one is answered without the key."""
    headers = {"authorization": f"Bearer {API_KEY}"}
    answer = httpx.post(f"{url}/v1/chat/completions", json=CHAT, headers=headers, timeout=60)
    assert answer.json()["choices"][0]["message"]["content"] == "Your name is Zorvina."
    assert httpx.get(f"{url}/v1/models").status_code == 401


def test_what_the_images_say_and_hold(gateway: str, engine: str) -> None:
    contents.check(gateway, "gateway")
    contents.check(engine, "cpu")
    with build.mounted(gateway) as root:
        installed, whole = contents.size(root / "opt/roundhouse"), contents.size(root)
        assert not [path for path in root.glob("opt/roundhouse/**/tests") if path.is_dir()]
    print(f"gateway: {installed / 1e6:.0f} MB installed, {whole / 1e6:.0f} MB with Debian")
    assert installed < GATEWAY_BYTES


def test_the_index_has_the_very_packages_of_the_engine_for_gpus() -> None:
    """What its build would install, without the gigabytes: each release, and a file for every hash."""
    text = (ROOT / "requirements/cuda.lock").read_text()
    releases = [line.removesuffix(" \\") for line in text.splitlines() if "==" in line]
    uv = str(Path(sys.executable).with_name("uv"))
    command = [
        uv, "pip", "compile", "-", "--no-deps", "--generate-hashes", "--no-header",
        "--no-annotate", "--native-tls", "--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28",
    ]  # fmt: skip
    done = subprocess.run(command, input="\n".join(releases), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert hashes(text).keys() == hashes(done.stdout).keys()
    there = hashes(done.stdout)
    assert not {name for name, known in hashes(text).items() if not known or known - there[name]}


def hashes(lock: str) -> dict[str, set[str]]:
    """Those of each release in a lock."""
    found: dict[str, set[str]] = {}
    for line in lock.splitlines():
        if "==" in line:
            name = line.split()[0]
        found.setdefault(name, set()).update(re.findall(r"--hash=sha256:(\w{64})", line))
    return found


def test_a_gateway_and_an_engine_answer_a_chat(gateway: str, engine: str, folder: Path, home: Path) -> None:
    ports = {"gateway": free_port(), "engine": free_port()}
    config = folder / "config"
    config.mkdir()
    fleet = config / "fleet.yaml"
    # As deploy/compose/cpu.yaml, in one network.
    text = (ROOT / "deploy/compose/cpu.yaml").read_text()
    fleet.write_text(text.replace("engine-pebble-chat:8000", f"127.0.0.1:{ports['engine']}"))
    common = {"ROUNDHOUSE_FLEET": str(fleet), "ROUNDHOUSE_ENGINE_KEY": ENGINE_KEY}
    words = ["engine", "--model", "pebble-chat", "--host", "0.0.0.0", "--port", str(ports["engine"])]
    with ExitStack() as stack:
        one = stack.enter_context(
            running(engine, folder / "engine", words, common, [config], {"/home/roundhouse": home})
        )
        started = {**common, "ROUNDHOUSE_API_KEY": API_KEY, "ROUNDHOUSE_PORT": str(ports["gateway"])}
        two = stack.enter_context(running(gateway, folder / "gateway", ["serve"], started, [config], {}))
        url = f"http://127.0.0.1:{ports['gateway']}"
        print(f"the gateway answers {two.until(lambda: answers(f'{url}/livez')):.1f} s after its start")
        print(f"the engine is healthy {one.until(lambda: one.healthy(ports['engine'])):.1f} s later")
        two.until(lambda: two.healthy(ports["gateway"]))
        ask(url)
        refused = httpx.get(f"http://127.0.0.1:{ports['engine']}/v1/models")
        assert refused.status_code == 401
        assert [two.stop(), one.stop()] == [0, 0]


def test_the_bento_answers_a_chat(folder: Path) -> None:
    image, port = bento.build(), free_port()
    fleet = folder / "fleet.yaml"
    written = yaml.safe_load((ROOT / "deploy/compose/cpu.yaml").read_text())
    del written["models"][0]["addresses"]  # so that its engine is started beside the gateway
    fleet.write_text(yaml.safe_dump(written))
    environment = {
        "ROUNDHOUSE_FLEET": str(fleet), "ROUNDHOUSE_API_KEY": API_KEY, "ROUNDHOUSE_PORT": str(port), "HOME": "/tmp",
        "BENTOML_HOME": "/tmp/bentoml",
    }  # fmt: skip
    assert build.configuration(image)["User"] == "bentoml"
    assert not any(line.startswith("UV_") and "INDEX" in line for line in build.configuration(image)["Env"])
    with running(image, folder / "bento", [], environment, [fleet.parent], {}) as one:
        url = f"http://127.0.0.1:{port}"
        print(f"the Bento is ready {one.until(lambda: answers(f'{url}/readyz')):.1f} s after its start")
        ask(url)
        assert one.stop() == 0
