"""`lax.conv_general_dilated` to the letter, computed by jcnn's engine."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from .general import convolve_general
from .lax_arguments import Convolution
from .xla_faults import of_lax


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> jax.Array:
    """Compute `jax.lax.conv_general_dilated`, on a CPU by faster algorithms.

    Arguments, result and errors are lax's own. What no fast algorithm covers goes to
    lax. Pass it to Flax as `nnx.Conv(…, conv_general_dilated=…)`, or call it.

    >>> x = jnp.arange(4.0).reshape(1, 1, 4)
    >>> conv_general_dilated(x, jnp.ones((1, 1, 2)), (1,), "VALID")
    Array([[[1., 3., 5.]]], dtype=float32)
    """
    as_lax_does = partial(
        of_lax,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    # lax itself checks the arguments and brings them to one form.
    program = jax.make_jaxpr(as_lax_does)(lhs, rhs)
    (params,) = [
        eqn.params
        for eqn in program.eqns
        if eqn.primitive is lax.conv_general_dilated_p
    ]
    convolution = Convolution.of(params)
    return convolve_general(
        jnp.asarray(lhs),
        jnp.asarray(rhs),
        convolution,
        sharding=params["out_sharding"],
    )
