"""How large an error may be, way by way.

Errors are measured in units of eps times the largest sum of absolute products that an
operation takes: a sum of n products is off by n / 2 units at most, hardly ever by two.
Winograd's algorithm takes differences of larger numbers. It is documented by its error
relative to the largest result, which is stated where there are results enough for the
largest one to be typical.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from jcnn._dtypes import wide


class Bound(NamedTuple):
    """What is allowed."""

    units: float  # eps times the largest sum of absolute products
    of_largest: float | None  # result, in float32 and with MANY_RESULTS


# Of 3000 examples the worst: 2.6 units; 9.4 units, and 4.0e-6 of the largest result.
DIRECT, WINOGRAD = Bound(4, None), Bound(16, 1e-5)
MANY_RESULTS = 1000

BOUNDS = {
    "primitive": DIRECT,
    "lax": DIRECT,
    "onednn": DIRECT,
    "im2col": DIRECT,
    "matmul": DIRECT,
    "depthwise": DIRECT,
    "winograd": WINOGRAD,
    # These may be made of Winograd's.
    "grouped": WINOGRAD,
    "polyphase": WINOGRAD,
    "auto": WINOGRAD,
}


def allowed(
    way: str,
    dtype: DTypeLike,
    widest: DTypeLike,
    *,
    roundings: int = 1,
    highest: bool = False,
) -> float:
    """The error allowed, relative to the largest sum of absolute products.

    Args:
      dtype: of the result.
      widest: of operands and result; sums are taken in it, or in float32 if shorter.
      roundings: of sums to the dtype, each off by eps / 2 of its value: 2 where sums of
        their own are rounded before they are added up, and so is what they add up to.
      highest: whether the highest precision is asked for, which keeps Winograd's
        algorithm away from all but those who name it.
    """
    summed = wide(widest)
    exact = jnp.finfo(summed).bits > 32 or jnp.issubdtype(summed, jnp.complexfloating)
    exact |= highest and way != "winograd"
    bound = DIRECT if exact else BOUNDS[way]  # Winograd supports no exact dtype
    rounding = 0 if summed == dtype else roundings * jnp.finfo(dtype).eps / 2
    return float(rounding + bound.units * jnp.finfo(summed).eps)
