"""No URL of a request reaches an engine as media, wherever it stands and however it is spelt, nor is it fetched."""

import asyncio
from collections.abc import Iterator
from typing import Any

from tests.conftest import Start
from tests.support.exchanges import CHAT, MESSAGE, RESPONSE, Case
from tests.support.gateways import HOUSE

SPELLINGS = (
    "http://127.0.0.1:PORT/x.png",
    "HTTP://127.1:PORT/x.png",
    "http://0x7f000001:PORT/",
    "http://2130706433:PORT/",
    "http://[::ffff:127.0.0.1]:PORT/",
    "http://localhost:PORT\\@allowed.example/",
    "https://allowed.example@127.0.0.1:PORT/",
    "http://169.254.169.254/latest/meta-data/",
    "//127.0.0.1:PORT/x.png",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "ftp://127.0.0.1:PORT/x",
    "/etc/passwd",
    "data:image/png,http://127.0.0.1:PORT/",
    "data:image/png;base64;http://127.0.0.1:PORT/",
    " data:image/png;base64,AAAA",
    "\thttp://127.0.0.1:PORT/",
)


def places(url: str) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Requests that name media by the URL, in all ways of the three APIs."""
    images = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "input_image", "image_url": url},
    ]
    others = [
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
        {"type": "input_file", "file_url": url},
        {"type": "file", "file": {"file_data": url}},
        {"image_url": url},
        {"type": "text", "text": "a", "uuid": "u", "image_url": url},
    ]
    for part in images + (others if url.startswith("http://127.0.0.1") else []):
        yield CHAT, {"messages": [{"role": "user", "content": [part]}]}
        yield CHAT, {"messages": [{"role": "tool", "tool_call_id": "c", "content": [part]}]}
        yield RESPONSE, {"input": [{"role": "user", "content": [part]}]}
        yield RESPONSE, {"input": [{"type": "function_call_output", "call_id": "c", "output": [part]}]}
    image = {"type": "image", "source": {"type": "url", "url": url}}
    for block in (image, {"type": "tool_result", "tool_use_id": "t", "content": [image]}):
        yield MESSAGE, {"messages": [{"role": "user", "content": [block]}]}


async def test_no_url_is_passed_to_an_engine_or_fetched(start: Start) -> None:
    hits = []

    async def canary(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hits.append(writer.get_extra_info("peername"))
        writer.close()

    server = await asyncio.start_server(canary, "127.0.0.1", 0)
    port = str(server.sockets[0].getsockname()[1])
    gateway = await start(HOUSE.replace("model: pebble-chat\n", "model: pebble-chat\n    vision: true\n"))
    passed = []
    for spelling in SPELLINGS:
        for case, fields in places(spelling.replace("PORT", port)):
            response = await gateway.http.post(case.path, json=case.body() | fields)
            if response.status_code != 400:
                passed.append((spelling, fields))
    assert not passed
    assert not gateway.seen
    assert not hits
    server.close()
