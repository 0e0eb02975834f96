"""oneDNN's forward convolution and product, as jaxlib's CPU backend calls them.

XLA runs it for the custom call `__onednn$convolution` of x [N, *spatial, C] and a
kernel [*spatial, C / groups, O]; the configuration is XLA's `OneDnnConvolutionConfig`
as JSON (xla/backends/cpu/onednn_config.proto). What oneDNN rejects ends the process, so
all calls pass `unsupported_reason`, and tests draw all of what that lets through.

Where it has no compiled convolution, oneDNN multiplies patches, in a loop over threads
within another. On XLA's pool of few threads these wait for each other for ever
(gemm_convolution_fwd_t of oneDNN 3.7.3 in jaxlib 0.10.2, seen on 2 threads): with AVX2
in some depthwise convolutions, with AMX for short floats in groups of 16 channels.

With AMX, convolutions of bfloat16 were wrong that had one window along an axis and a
stride there. So a convolution must have stride 1 where it has one window, and no pixels
behind the last one.
"""

import json
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ..problem import Problem
from .support import unavailable_reason

_MOST_NUMBERS = 2**31 - 1  # of an array
_MOST_STEP = 2**15  # of a stride, a dilation or a padding


def unsupported_reason(problem: Problem) -> str | None:
    """Return why oneDNN must not be asked for a convolution; None if it may."""
    dtype, result = jnp.dtype(problem.dtype), jnp.dtype(problem.output_dtype)
    if reason := unavailable_reason(dtype.name):
        return reason
    if result not in (dtype, jnp.dtype("float32")):
        return f"it gives {dtype} or float32, not {result}"
    if problem.models is not None or problem.rank not in (1, 2, 3):
        return "it has one kernel, and 1 to 3 spatial dimensions"
    shapes = [problem.shape(name) for name in ("x", "kernel", "y")]
    if not all(isinstance(n, int) and n > 0 for shape in shapes for n in shape):
        return "a size is 0, or not known before the program runs"
    if max(map(prod, shapes)) > _MOST_NUMBERS:
        return "an array is too large"
    if problem.in_channels % problem.groups or problem.out_channels % problem.groups:
        return "its channels are no multiple of its groups"
    pads = [pad for pair in problem.padding for pad in pair]
    steps = [*problem.strides, *problem.dilation]
    if min(pads) < 0 or min(steps) < 1 or max(*pads, *steps) > _MOST_STEP:
        return "a stride, a dilation or a padding is out of its range"
    channels = min(problem.in_channels, problem.out_channels)
    depthwise = problem.groups == problem.in_channels == problem.out_channels
    if problem.groups > 1 and depthwise and not _compiled_depthwise(problem):
        return "some depthwise convolutions never end"
    if problem.groups > 1 and dtype.itemsize == 2 and channels >= 16 * problem.groups:
        return "some grouped convolutions of short floats never end"
    if problem.padding != problem.exact_padding:
        return "its last window does not end where the padded image does"
    if any(s > 1 and o == 1 for s, o in zip(problem.strides, problem.output_size)):
        return "a stride leads nowhere"
    return None


def convolution(
    problem: Problem, x: jax.Array, kernel: jax.Array, *, inputs_first: bool = False
) -> jax.Array:
    """Return the forward convolution; `inputs_first`: of [C / groups, *spatial, O].

    Raises:
        ValueError: If it is not supported, or the operands are not the problem's.
    """
    if reason := unsupported_reason(problem):
        raise ValueError(f"oneDNN must not be asked for {problem}: {reason}")
    *size, inputs, outputs = problem.shape("kernel")
    shape = (inputs, *size, outputs) if inputs_first else (*size, inputs, outputs)
    operands = [(a.shape, a.dtype) for a in (x, kernel)]
    dtype = jnp.dtype(problem.dtype)
    if operands != [(problem.shape("x"), dtype), (shape, dtype)]:
        raise ValueError(f"oneDNN must not be given {operands} for {problem}")
    result = jax.ShapeDtypeStruct(problem.shape("y"), problem.output_dtype)
    config = {"onednn_conv_config": _config(problem, inputs_first)}
    return _call("__onednn$convolution", result, config, x, kernel)


def product_unsupported_reason(dtype: DTypeLike) -> str | None:
    """Return why oneDNN must not multiply this dtype; None if it may.

    Without AVX-512 its GEMM of float32 waits for ever, or ends the process, where
    several of them run in a loop.
    """
    name = jnp.dtype(dtype).name
    if name not in ("bfloat16", "float16"):
        return f"XLA multiplies {name} as fast"
    return unavailable_reason(name)


def transposed_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a.T @ b in float32, of a: [K, M] and b: [K, N] of one short dtype.

    Raises:
        ValueError: If it is not supported.
    """
    if reason := product_unsupported_reason(a.dtype):
        raise ValueError(f"oneDNN must not be asked for a product: {reason}")
    if a.ndim != 2 or b.ndim != 2 or a.dtype != b.dtype or a.shape[0] != b.shape[0]:
        raise ValueError(f"oneDNN must not be asked for a product of {a} and {b}")
    shape = (a.shape[1], b.shape[1])
    if not 0 < min(a.size, b.size) <= max(a.size, b.size, prod(shape)) <= _MOST_NUMBERS:
        raise ValueError(f"oneDNN must not be asked for a product of {a} and {b}")
    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    config = {"onednn_matmul_config": {"transpose_a": True, "transpose_b": False}}
    return _call("__onednn$matmul", result, config, a, b)


def _call(name: str, result: jax.ShapeDtypeStruct, config: dict[str, Any], *operands):
    text = json.dumps(config)
    return jax.ffi.ffi_call(
        name, result, custom_call_api_version=2, legacy_backend_config=text
    )(*operands)


def _config(problem: Problem, inputs_first: bool) -> dict[str, Any]:
    """Numbers are texts, as protocol buffers write 64-bit integers in JSON."""
    rank, dims = problem.rank, str(problem.rank + 2)
    data = {
        "batch_dim": "0",
        "feature_dim": str(rank + 1),
        "spatial_dims": [str(axis + 1) for axis in range(rank)],
    }
    filter_ = {
        "input_feature_dim": "0" if inputs_first else str(rank),
        "output_feature_dim": str(rank + 1),
        "spatial_dims": [str(axis + inputs_first) for axis in range(rank)],
    }
    window = {
        "size": [],
        "pad_left": [str(low) for low, _ in problem.padding],
        "pad_right": [str(high) for _, high in problem.padding],
        "strides": list(map(str, problem.strides)),
        "window_dilations": list(map(str, problem.dilation)),
    }
    return {
        "dims": dims,
        "input": {"dims": dims, "data": data},
        "kernel": {"dims": dims, "filter": filter_},
        "output": {"dims": dims, "data": data},
        "window": window,
        "feature_groups": str(problem.groups),
    }


def _compiled_depthwise(problem: Problem) -> bool:
    """Return whether oneDNN surely compiles a depthwise convolution.

    It did for all of 539 drawn ones (brdgmm_dw by ONEDNN_VERBOSE). Some of the others
    never end.
    """
    return (
        problem.rank == 2
        and set(problem.dilation) == {1}
        and max(problem.kernel_size) <= 7
        and max(pad for pair in problem.padding for pad in pair) <= 3
        and all(k <= n for k, n in zip(problem.kernel_size, problem.input_size))
    )
