"""Schedules of the learning rate."""

from typing import Any, Literal

import optax

from .config import OptionError

Schedule = Literal["constant", "cosine", "linear"]


def make_schedule(
    name: Schedule, peak: Any, num_steps: int, *, warmup: float = 0.0
) -> optax.Schedule:
    """Return a learning rate that rises from 0 to `peak`, then stays or falls to 0.

    Warm-up as in Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.2; the
    cosine as in Loshchilov and Hutter, "SGDR" (2017), section 3, without restarts. A
    warm-up of 0.3 and "linear" give the cycle of Smith and Topin, "Super-Convergence"
    (2017), section 3.

    Args:
        name: What comes after the warm-up.
        peak: The highest learning rate, a number or an array.
        num_steps: Of the whole run, at least 1.
        warmup: Fraction of the steps in which the rate rises, from 0 to below 1.

    Raises:
        OptionError: If there is no schedule of this name, or `warmup` is out of range.

    >>> rate = make_schedule("linear", 0.5, 100, warmup=0.2)
    >>> [round(float(rate(step)), 3) for step in (0, 10, 20, 60, 100)]
    [0.0, 0.25, 0.5, 0.25, 0.0]
    """
    if not 0 <= warmup < 1:
        raise OptionError(f"warmup must be at least 0 and below 1, got {warmup}")
    rising = int(num_steps * warmup)
    falling = num_steps - rising
    if name == "constant":
        rate = optax.constant_schedule(peak)
    elif name == "cosine":
        rate = optax.cosine_decay_schedule(peak, falling)
    elif name == "linear":
        rate = optax.linear_schedule(peak, 0.0, falling)
    else:
        raise OptionError(
            f'schedule must be "constant", "cosine" or "linear", got {name!r}'
        )
    if rising == 0:
        return rate
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, rising), rate], [rising]
    )
