"""What tokens cost: on GPUs at a price per hour, and at an API's price per token. All prices are the user's own."""

from dataclasses import dataclass

from service.planner.memory import Demand, Fit
from service.planner.speed import Speed

MILLION = 1_000_000
ANSWER = 500  # tokens of a request that are its answer, where the user does not say


@dataclass(frozen=True)
class Prices:
    """Dollars: for one GPU and hour, and for a million tokens that an API writes or reads. None is not given.

    `answer` is how many of a request's tokens the model writes; the others are its prompt.
    """

    gpu_hour: float | None = None
    output: float | None = None
    input: float | None = None
    answer: int = ANSWER


@dataclass(frozen=True)
class Cost:
    """Dollars for a million tokens written, their prompts included.

    `own` at the speed's bound with all GPUs always busy: real ones are never quite. `api` is what the same requests
    cost there. `break_even` is the share of that bound that must be used for `own` to be no more than `api`; above 1
    it cannot be.
    """

    own: float
    api: float | None
    break_even: float | None


def cost(fit: Fit, speed: Speed, demand: Demand, prices: Prices) -> Cost | None:
    """What requests of the asked context cost; None without a GPU price, or where a speed is unknown."""
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
