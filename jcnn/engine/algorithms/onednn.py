"""oneDNN's direct convolution: forward, and the input gradient as a forward one.

The kernel gradient is in `onednn_kernel_gradient`.
"""

from dataclasses import replace

import jax

from ..algorithm import Algorithm
from ..onednn import calls
from ..padding import pad
from ..problem import Problem
from ..transposed import transposed, transposed_kernel
from .onednn_kernel_gradient import way_of


def unsupported_reason(problem: Problem) -> str | None:
    problem = problem.one_model()
    if problem.op == "kernel_gradient":
        if problem.groups > 1:
            return "it computes gradients to the kernel of 1 group"
        called = way_of(problem).called
        return called and calls.unsupported_reason(called)
    if problem.op == "input_gradient":
        if any(s > 1 for s in problem.strides):
            return "it computes gradients to the input only without strides"
        problem = transposed(problem)
    return calls.unsupported_reason(_plainest(_on_a_line(problem)))


def forward(problem: Problem, x: jax.Array, kernel: jax.Array) -> jax.Array:
    line = _on_a_line(problem)
    x, kernel = x.reshape(line.shape("x")), kernel.reshape(line.shape("kernel"))
    called = _plainest(line)
    x = pad(x, [(0, n - m) for n, m in zip(called.input_size, line.input_size)])
    return calls.convolution(called, x, kernel).reshape(problem.shape("y"))


def input_gradient(problem: Problem, kernel: jax.Array, y: jax.Array) -> jax.Array:
    return forward(transposed(problem), y, transposed_kernel(kernel, problem.groups))


def kernel_gradient(problem: Problem, x: jax.Array, y: jax.Array) -> jax.Array:
    return way_of(problem).compute(x, y)


def _on_a_line(problem: Problem) -> Problem:
    """Return a dense layer as one row of pixels, any other problem as it is."""
    if problem.rank:
        return problem
    return problem.row(problem.batch, problem.in_channels)


def _plainest(problem: Problem) -> Problem:
    """Remove pixels behind the last window, and strides that lead nowhere."""
    ends = list(zip(problem.input_size, problem.exact_padding))
    size = tuple(max(n + min(high, 0), 1) for n, (_, high) in ends)
    padding = tuple((low, max(high, 0)) for _, (low, high) in ends)
    steps = zip(problem.strides, problem.output_size)
    strides = tuple(s if o > 1 else 1 for s, o in steps)
    return replace(problem, input_size=size, padding=padding, strides=strides)


def _operations(problem: Problem) -> int:
    return way_of(problem).operations if problem.op == "kernel_gradient" else 1


def _temporary_bytes(problem: Problem) -> int:
    return way_of(problem).temporary_bytes if problem.op == "kernel_gradient" else 0


ONEDNN = Algorithm(
    "onednn",
    unsupported_reason,
    forward,
    input_gradient,
    kernel_gradient,
    operations=_operations,
    temporary_bytes=_temporary_bytes,
    portable=False,
)
