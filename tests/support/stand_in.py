"""Stands in for vLLM's server: understands its command line, and serves a fake engine on its socket, or its port.

On its port it asks for the key that VLLM_API_KEY has.

The variable STAND_IN names what is wrong with it: `broken` (it ends while it loads), `mute` (no token until the file
`speak` lies beside its socket), `early` (its socket is there, but nobody answers there until `speak`), `patient` (of an
answer it says one word, and the others at `speak` or when it is to end), `stubborn` (SIGTERM does not stop it), `spin`
(it quotes in its log what it was asked, and spins, where others stand still). LACKS names flags that this release does
not have yet, and VLLM_LOAD_SECONDS says how long it loads. At SIGUSR1 its core stands still: it says that it is
healthy, and makes no token any more.
"""

import argparse
import asyncio
import os
import signal
import socket
from pathlib import Path

from tests.fake_engine import FakeEngine, Fault
from tests.support.waiting import until

LOG = """\
(APIServer pid=1) INFO 11-21 20:31:59 [utils.py:253] non-default args: {'uds': 'x'}
(EngineCore pid=2) INFO 11-21 20:32:30 [core.py:114] Initializing a V1 LLM engine (v0.32.0) with config: x
(Worker pid=3) INFO 11-21 20:32:40 [model_runner.py:1] Starting to load model x...
(Worker pid=3) INFO 11-21 20:32:40 [loader.py:2] Loading weights took 0.01 seconds
(APIServer pid=1) INFO 11-21 20:32:45 [api_server.py:3] Starting vLLM server on unix:x
"""


def spin_for_ever() -> None:
    while True:
        pass


async def main(uds: Path | None, host: str, port: int, name: str, wrong: str, sleeps: bool) -> None:
    first, *others = LOG.splitlines()
    print(first, flush=True)
    if wrong == "broken":
        raise ValueError("the weights are broken")
    stop = asyncio.Event()

    async def may_speak() -> None:
        while not (stop.is_set() or (uds and (uds.parent / "speak").exists())):  # noqa: ASYNC110  another process makes it
            await asyncio.sleep(0.02)

    if uds and wrong == "early":
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.bind(str(uds))
            deaf.listen()
            await may_speak()
    await asyncio.sleep(float(os.environ.get("VLLM_LOAD_SECONDS", "0")))
    lora = os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "1"
    engine = FakeEngine(name, gap=0.02, key=None if uds else os.environ.get("VLLM_API_KEY"), lora=lora)
    engine.sleeps = sleeps
    if wrong != "stubborn":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if wrong == "mute":
        engine.always = Fault(status=500)
    if wrong == "patient":
        engine.hold()

    def freeze() -> None:
        if wrong == "spin":
            for seen in engine.requests:
                print(f"ERROR [serving.py:1] jinja2.exceptions.TemplateError: {seen.body.decode()}", flush=True)
                print(f"  Input is wrong [type=x, input_value={seen.body.decode()}, input_type=str]", flush=True)
            spin_for_ever()
        engine.always = Fault(raw=b"", end="hang")
        print("frozen", flush=True)

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, freeze)
    async with engine.listen(uds or port, host):
        print("\n".join(others), flush=True)
        if wrong in ("mute", "patient"):
            await may_speak()
            engine.always = Fault()
            engine.go_on()
        await stop.wait()
        print(f"draining {engine.running}", flush=True)
        engine.die("drain")
        engine.go_on()
        await until(lambda: engine.running + engine.waiting == 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="api_server.py", allow_abbrev=False)
    parser.add_argument("--model", required=True)
    parser.add_argument("--uds", type=Path)
    parser.add_argument("--host", default="")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--shutdown-timeout", type=int, required=True)
    arguments, others = parser.parse_known_args()
    if missing := [word for word in others if word in os.environ.get("LACKS", "").split()]:
        parser.error(f"unrecognized arguments: {' '.join(missing)}")
    wrong = os.environ.get("STAND_IN", "")
    sleeps = "--enable-sleep-mode" in others and os.environ.get("VLLM_SERVER_DEV_MODE") == "1"
    asyncio.run(main(arguments.uds, arguments.host, arguments.port, arguments.served_model_name, wrong, sleeps))
