"""Reading of jaxprs, the programs that JAX traces."""

from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, jaxprs_in_params

ELEMENTWISE = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    cbrt ceil clamp clz complex conj convert_element_type copy copy_p cos cosh
    device_put digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt igamma
    igammac imag integer_pow is_finite le lgamma log log1p logistic lt max min mul name
    ne neg nextafter not optimization_barrier or pcast polygamma population_count pow
    pvary real reduce_precision rem round rsqrt select_n sharding_constraint shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient
    sub tan tanh xor zeta""".split()
)
REDUCTIONS = frozenset(
    """argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum
    reduce_xor""".split()
)
SCANS = frozenset("cumlogsumexp cummax cummin cumprod cumsum".split())
_WITHOUT_PRODUCTS = (ELEMENTWISE | REDUCTIONS | SCANS).union(
    """bitcast_convert_type broadcast_in_dim concatenate dynamic_slice
    dynamic_update_slice gather jcnn_broadcast jcnn_sum jcnn_window_maxima
    jcnn_window_sums pad reshape rev slice sort split squeeze stack tile top_k transpose
    unstack""".split()
)


def equations(
    jaxpr: Jaxpr, times: int | None = 1
) -> Iterator[tuple[JaxprEqn, int | None]]:
    """Yield all equations, nested ones too, with the number of times each runs.

    The number is None inside a while loop, where only the running program knows it.
    """
    for eqn in jaxpr.eqns:
        yield eqn, times
        inside = times
        if eqn.primitive.name == "scan" and times is not None:
            inside = times * eqn.params["length"]
        if eqn.primitive.name == "while":
            inside = None
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner, inside)


def shapes(variables: Iterable[Any]) -> list[tuple[int, ...]]:
    """Return the shapes of an equation's `invars` or `outvars`."""
    return [v.aval.shape for v in variables]


def scope_of(eqn: JaxprEqn, outside: str = "") -> str:
    """Return the path of the part that an equation is in, such as "stage2/conv1".

    Without the transformations around it, but with the scope that is outside.
    """
    stack = eqn.source_info.name_stack.stack
    names = [entry.name for entry in stack if type(entry).__name__ == "Scope"]
    # An einsum names its operations by its formula.
    return "/".join(n for n in [outside, *names] if n and "->" not in n)


def multiply_adds(eqn: JaxprEqn) -> int | None:
    """Return the products that an equation sums; None if its primitive is unknown."""
    name, params = eqn.primitive.name, eqn.params
    operands, output = shapes(eqn.invars), prod(shapes(eqn.outvars)[0])
    if name == "jcnn_convolution":
        return params["problem"].multiply_adds
    if name == "conv_general_dilated":
        features = operands[1][params["dimension_numbers"].rhs_spec[0]]
        holes = prod(params["lhs_dilation"])
        return output * prod(operands[1]) // (features * holes) if features else 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return output * prod(operands[0][i] for i in contracted)
    known = name in _WITHOUT_PRODUCTS or name.startswith(("reduce_window", "scatter"))
    return 0 if known else None
