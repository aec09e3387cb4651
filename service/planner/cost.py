"""Cost per token: on GPUs at a price per hour, and from an API at a price per token. The user gives all prices."""

from dataclasses import dataclass

from service.planner.memory import Demand, Fit
from service.planner.speed import Speed

MILLION = 1_000_000
ANSWER = 500  # output tokens of a request, by default


@dataclass(frozen=True)
class Prices:
    """Dollars per GPU-hour, and per million output and input tokens of an API; None means not given.

    `answer` is the number of output tokens of a request; the rest of its context is the prompt.
    """

    gpu_hour: float | None = None
    output: float | None = None
    input: float | None = None
    answer: int = ANSWER


@dataclass(frozen=True)
class Cost:
    """Dollars per million output tokens, including the cost of their prompts.

    `own` is the cost on one's own GPUs, always busy at the throughput bound, which real engines do not reach. `api` is
    the cost of the same requests from the API. `break_even` is the share of the bound that must be used for `own` to be
    no more than `api`; above 1, the API is always cheaper.
    """

    own: float
    api: float | None
    break_even: float | None


def cost(fit: Fit, speed: Speed, demand: Demand, prices: Prices) -> Cost | None:
    """The cost of requests of `demand.context` tokens; None without a GPU price, or if a speed is unknown.

    GPU seconds of a request: output tokens / decode throughput + prompt tokens / prefill throughput.
    """
    if prices.gpu_hour is None or not speed.together or not speed.prefill:
        return None
    answer = min(prices.answer, demand.context)
    prompt = demand.context - answer
    seconds = answer / speed.together + prompt / speed.prefill
    scale = MILLION / answer
    own = seconds * fit.degree * prices.gpu_hour / 3600 * scale
    if prices.output is None:
        return Cost(own, None, None)
    api = (answer * prices.output + prompt * (prices.input or 0.0)) / MILLION * scale
    return Cost(own, api, own / api if api else None)
