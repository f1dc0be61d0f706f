"""What no schedule can beat, and how far ahead the engines have to be kept supplied."""

from __future__ import annotations

import math


def speedup_bound(trainer_share: float, training_share: float) -> float:
    """How many times as fast as the synchronous trainer an asynchronous one can be: f / x.

    Synchronous here means that all N devices generate, and then all N train: a step takes S
    seconds, of them x * S for training (x: `training_share`). Training a batch is then
    N * x * S device-seconds of work. The asynchronous trainer gives it f * N devices
    (f: `trainer_share`), which need N * x * S / (f * N) = (x / f) * S seconds for it. However well
    generation is hidden, a step cannot be shorter, so

        S / S_async <= f / x.

    The bound is reached when the trainers never wait. It rises with f only as long as the other
    1 - f of the devices keep up; with engines that are as busy in both modes they cannot do more
    than (1 - f) / (1 - x), and both together give 1 at f = x: all that can be won is what the
    synchronous engines lose while they wait for the longest answers. Assumes that training
    divides evenly over devices; a part that does not lets the bound be passed a little.

    Example: speedup_bound(3 / 11, 0.10) is 2.73. Raises ValueError outside 0 < share <= 1.
    """
    if not (0 < trainer_share <= 1 and 0 < training_share <= 1):
        raise ValueError(f"shares lie in (0, 1], got {trainer_share} and {training_share}")
    return trainer_share / training_share


def filling_ahead(num_places: int, rollouts_per_step: int, max_staleness: int) -> int:
    """The smallest number of steps ahead that fills the engines, at most `max_staleness`.

    num_places: sequences that all engines together decode at once (engines * max_running).
    While one batch is trained, `ahead` more may be generated: the engines have work for every
    place when ahead * rollouts_per_step >= num_places. More only makes answers older. Less is
    enough where the trainers are the slow side: that depends on speeds, which `posttrain plan`
    simulates and this does not know.

    Example: 8 places, 4 rollouts per step -> 2; with max_staleness 1 -> 1; with 0 -> 0.
    """
    if min(num_places, rollouts_per_step) < 1 or max_staleness < 0:
        raise ValueError(
            "need num_places >= 1, rollouts_per_step >= 1 and max_staleness >= 0, got "
            f"{num_places}, {rollouts_per_step} and {max_staleness}"
        )
    return min(max_staleness, math.ceil(num_places / rollouts_per_step))
