"""Any convolution that lax can express, by the algorithm named or chosen."""

from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from .canonical import canonicalize
from .lax_arguments import Convolution
from .planner import check_supported, unsupported_reason
from .primitive import convolve
from .sharding import compiled_as, sharded_by_type
from .xla_faults import of_lax


@wraps(of_lax, assigned=(), updated=())
def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, *arguments: Any, **settings: Any
) -> jax.Array:
    """Compute `jax.lax.conv_general_dilated`, on a CPU by faster algorithms.

    Arguments, result and errors are lax's own. What no fast algorithm covers goes to
    lax. Pass it to Flax as `nnx.Conv(…, conv_general_dilated=…)`, or call it.

    >>> x = jnp.arange(4.0).reshape(1, 1, 4)
    >>> conv_general_dilated(x, jnp.ones((1, 1, 2)), (1,), "VALID")
    Array([[[1., 3., 5.]]], dtype=float32)
    """
    # lax itself checks the arguments and brings them to one form.
    program = jax.make_jaxpr(lambda *ab: of_lax(*ab, *arguments, **settings))(lhs, rhs)
    (params,) = [
        eqn.params
        for eqn in program.eqns
        if eqn.primitive is lax.conv_general_dilated_p
    ]
    return convolve_general(
        jnp.asarray(lhs),
        jnp.asarray(rhs),
        Convolution.of(params),
        sharding=params["out_sharding"],
    )


def convolve_general(
    lhs: jax.Array,
    rhs: jax.Array,
    convolution: Convolution,
    impl: str = "auto",
    sharding: NamedSharding | None = None,
) -> jax.Array:
    """Return the convolution by the algorithm named, or by the planner's choice.

    "lax" is the primitive of lax, which other tools know, wherever its derivatives are
    safe. Arrays that are sharded by type are divided by the compiler, as is a result
    with `sharding`.

    Raises:
        ValueError: If the algorithm that is named does not support it.
    """
    if sharding is not None or sharded_by_type(jax.typeof(lhs), jax.typeof(rhs)):
        return compiled_as(
            sharding or _sharding(lhs, rhs, convolution),
            lambda lhs, rhs: _convolve(lhs, rhs, convolution, impl),
            lhs,
            rhs,
        )
    if impl == "lax":
        lhs, convolution = convolution.padded(lhs, rhs)
        if convolution.is_safe_derived(lhs, rhs):
            return convolution.by_lax(lhs, rhs)
    return _convolve(lhs, rhs, convolution, impl)


def _convolve(
    lhs: jax.Array, rhs: jax.Array, convolution: Convolution, impl: str
) -> jax.Array:
    canonical = canonicalize(lhs, rhs, convolution, impl)
    if canonical is None or unsupported_reason(canonical.problem):
        lhs, convolution = convolution.dilated(lhs)
        canonical = canonicalize(lhs, rhs, convolution, impl)
    if canonical is None:
        return convolution.by_lax(lhs, rhs)
    check_supported(canonical.problem)
    operands = canonical.operands(lhs, rhs)
    return canonical.result(convolve(canonical.problem, *operands))


def _sharding(lhs: jax.Array, rhs: jax.Array, c: Convolution) -> NamedSharding:
    """Return lax's sharding of the result, with features as the kernel has them."""
    axis, type_ = c.dimension_numbers.rhs_spec[0], jax.typeof(rhs)
    spec = list(type_.sharding.spec)
    features, spec[axis] = spec[axis], None
    if features is None:
        return jax.eval_shape(c.by_lax, lhs, rhs).sharding
    mesh = type_.sharding.mesh
    whole = type_.update(sharding=NamedSharding(mesh, PartitionSpec(*spec)))
    spec = list(jax.eval_shape(c.by_lax, lhs, whole).sharding.spec)
    spec[c.dimension_numbers.out_spec[1]] = features
    return NamedSharding(mesh, PartitionSpec(*spec))
