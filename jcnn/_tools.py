"""What tools of JAX know of primitives, of which each has a table of its own.

Where a release of JAX has another table or none, the tool does not know ours.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax.extend.core import Primitive

Series = list[Any]  # an array's Taylor coefficients but for the first


def define_taylor(
    primitive: Primitive,
    rule: Callable[..., tuple[Any, Series]],
) -> None:
    """Gives `jax.experimental.jet` a rule, unless it has one.

    Args:
      primitive: one of jcnn's, or one of lax's that jet does not know.
      rule: from the operands, a series for each, and the primitive's parameters to the
        result and its series.
    """
    try:
        from jax.experimental.jet import jet_rules
    except ImportError:
        return
    jet_rules.setdefault(primitive, rule)


def define_nan_check(primitive: Primitive) -> None:
    """Lets `checkify` look for NaN in the primitive's result."""
    try:
        from jax._src.checkify import error_checks, nan_error_check
    except ImportError:
        return
    error_checks[primitive] = partial(nan_error_check, primitive)
