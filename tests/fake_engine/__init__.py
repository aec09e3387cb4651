"""A fake of one vLLM 0.32 engine: the same wire with scripted faults and without a model.

It echoes the last thing the user said, one word per token, and then stops. What it answers is compared with the real
engine in tests/engine, so a test against the fake is as good as its script.
"""

from tests.fake_engine.engine import CONTEXT, Death, FakeEngine
from tests.fake_engine.scripts import Call, Script, Verdicts
from tests.fake_engine.wire import Fault, Seen

__all__ = ["CONTEXT", "Call", "Death", "FakeEngine", "Fault", "Script", "Seen", "Verdicts"]
