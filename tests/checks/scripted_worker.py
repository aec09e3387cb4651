"""A process that speaks the protocol of `service.checks.worker` and does what its jobs say, for tests.

A job is a word after its kind: `pass`, `refuse`, `die`, `hang`, `garble`, `environment`.
"""

import json
import os
import sys
import time


def write(frame: object) -> None:
    data = json.dumps(frame).encode()
    sys.stdout.buffer.write(len(data).to_bytes(4, "big") + data)
    sys.stdout.buffer.flush()


write({"found": [str(os.getpid())]})
if sys.stdin.buffer.read(4):
    write({"found": [str(os.getpid())]})
while size := sys.stdin.buffer.read(4):
    word = sys.stdin.buffer.read(int.from_bytes(size, "big"))[1:].decode().partition(" ")[0]
    write({"at": f"tools[0].{word}"})
    if word == "die":
        os.abort()
    if word == "hang":
        time.sleep(600)
    if word == "garble":
        sys.stdout.buffer.write(b"\xff\xff\xff\xff")
        sys.stdout.buffer.flush()
        time.sleep(600)
    reasons = {"refuse": "it is wrong", "environment": " ".join(sorted(os.environ))}
    write({"path": "a", "reason": reasons[word]} if word in reasons else {})
