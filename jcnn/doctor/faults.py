"""What some releases of jaxlib compute wrongly on CPUs, or die of.

Each fault has a small program. It runs in a process of its own, since it may end it.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ..engine.children import Ended


class Fault(NamedTuple):
    """A fault and a program that has it.

    Attributes:
        what: What goes wrong, in a few words.
        issue: Where it is reported, if it is.
        right: Whether the program's numbers are right.
        avoided: Whether jcnn's convolutions are kept from it.
        remedy: The option of XLA that ends it, if there is one.
    """

    what: str
    issue: str
    right: Callable[[], bool]
    avoided: bool = False
    remedy: str = ""


def _squares() -> bool:
    rows = np.zeros((32769, 3), np.float32)
    rows[:, 0] = np.arange(len(rows))
    identity = jnp.eye(3, dtype=jnp.float32)
    sums = jax.jit(jax.vmap(lambda row: jnp.sum((identity @ row) ** 2)))(rows)
    return float(sums[-1]) == float(rows[-1, 0]) ** 2


def _seven_axes() -> bool:
    ones = np.ones((3, 1, 2, 2, 8, 8, 8), np.float32)
    sums = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(ones, ones)
    return bool((np.asarray(sums) == 2).all())


def _cropped() -> bool:
    """The last column lies in the padding."""
    y = _convolve(_ones(1, 15, 6, 8), _ones(1, 1, 8, 8), 1, ((0, 0), (-5, 1)))
    return not np.asarray(y)[:, :, -1].any()


def _strided() -> bool:
    """XLA dies of it: see `jcnn.engine.xla_faults`."""
    x, kernel = _ones(4, 5, 8, 3), _ones(3, 2, 3, 5)
    y, pull = jax.vjp(lambda x: _convolve(x, kernel, 2, ((0, 0), (1, 1))), x)
    (gradient,) = jax.jit(pull)(y)
    return bool(np.isfinite(gradient).all())


def _divided() -> bool:
    """`vmap` makes groups of the kernel gradients of each example."""

    def loss(kernel, image):
        return (_convolve(image[None], kernel, 1, "SAME") ** 2).sum()

    gradients = jax.vmap(jax.grad(loss), (None, 0))
    mesh = jax.make_mesh((2,), ("two",), axis_types=(AxisType.Auto,))
    images = jnp.arange(2 * 4 * 4 * 2, dtype=jnp.float32).reshape(2, 4, 4, 2)
    divided = jax.device_put(images, NamedSharding(mesh, PartitionSpec("two")))
    kernel = _ones(3, 3, 2, 2)
    expected = jax.jit(gradients)(kernel, images)
    return bool(jnp.allclose(jax.jit(gradients)(kernel, divided), expected))


def _ones(*shape: int) -> jax.Array:
    return jnp.ones(shape, jnp.float32)


def _convolve(x, kernel, stride, padding) -> jax.Array:
    layouts = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=layouts
    )


_NO_REDUCE = "--xla_cpu_experimental_ynn_fusion_type=-reduce"

FAULTS = (
    Fault("sum of a product under vmap", "jax#39103", _squares, remedy=_NO_REDUCE),
    Fault("sum of a product of 7 axes", "jax#40412", _seven_axes, remedy=_NO_REDUCE),
    Fault("convolution of cropped input", "openxla/xla#48713", _cropped, avoided=True),
    Fault("gradient of a strided convolution", "", _strided, avoided=True),
    Fault("groups divided among devices", "", _divided, avoided=True),
)


def program(number: int) -> str:
    """The text of the program that `verdict` understands.

    >>> program(1)
    'from jcnn.doctor.faults import tell; tell(1)'
    """
    return f"from jcnn.doctor.faults import tell; tell({number})"


def tell(number: int) -> None:
    """Print "begun" once JAX computes, then "right" or "wrong", or die of the fault."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no memory dump is left
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", 2)
    jax.jit(lambda: 0)().block_until_ready()
    print("begun", flush=True)
    print("right" if FAULTS[number].right() else "wrong")


def verdict(ended: Ended) -> str:
    """Whether the fault is there: "no", "yes, …" or "not run: …".

    >>> verdict(Ended(-11, "begun\\n", ""))
    'yes, the process ends'
    >>> verdict(Ended(None, "", "no answer in 9 s"))
    'not run: no answer in 9 s'
    """
    answer = ended.output.strip().rpartition("\n")[2]
    if answer == "right":
        return "no"
    if answer == "wrong":
        return "yes, wrong numbers"
    # After an exception Python ends with 1. What needs memory kills with 9.
    if answer == "begun" and ended.status not in (None, 0, 1, -9):
        return "yes, the process ends"
    return f"not run: {ended.reason}"
