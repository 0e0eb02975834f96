"""The learning rate's schedule that the experiments share."""

import optax


def warmup_cosine(peak: float, num_steps: int) -> optax.Schedule:
    """Rise from 0 to `peak` in a tenth of the steps, then fall to 0 along a cosine.

    Warm-up as in Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.2; the
    cosine as in Loshchilov and Hutter, "SGDR" (2017), section 3, without restarts.

    Args:
        peak: The highest learning rate.
        num_steps: Of the whole run, at least 1.

    >>> rate = warmup_cosine(0.5, 100)
    >>> [round(float(rate(step)), 3) for step in (0, 10, 55, 100)]
    [0.0, 0.5, 0.25, 0.0]
    """
    return optax.warmup_cosine_decay_schedule(0.0, peak, num_steps // 10, num_steps)
