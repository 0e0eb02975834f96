"""One value that says which convolution is to be computed.

A convolution is a trilinear form of three tensors,

    T(x, kernel, y) = sum of  x[n, o*s + k*d - low, c] kernel[k, c, f] y[n, o, f]

and each of three operations is its gradient with respect to one of them: the forward
convolution gives y, the input gradient (a transposed convolution) x, and the kernel
gradient the kernel. The derivative of one of them is another one.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from .._shapes import Pairs, dilated

Tensor = Literal["x", "kernel", "y"]
Op = Literal["forward", "input_gradient", "kernel_gradient"]

_OPS: dict[Tensor, Op] = {
    "x": "input_gradient",
    "kernel": "kernel_gradient",
    "y": "forward",
}


@dataclass(frozen=True)
class Problem:
    """Sizes and settings of one operation, in the layouts NHWC, HWIO, NHWC.

    Attributes:
        padding: From 0 to the window less one, on every side.
        dtype: That of x and the kernel.
        output_dtype: That of y.
        impl: An algorithm's name or "auto".
        models: None, or the length of a leading axis of result and operands (from
            `jax.vmap` over kernels). All models share an operand without it.
    """

    op: Op
    batch: int
    input_size: tuple[int, ...]
    output_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    in_channels: int
    out_channels: int
    strides: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    groups: int
    dtype: DTypeLike
    output_dtype: DTypeLike
    precision: Any = None
    impl: str = "auto"
    models: int | None = None

    @classmethod
    def dense(
        cls, x: Any, kernel: Any, precision: Any, dtype: DTypeLike | None, impl: str
    ) -> "Problem":
        """x [..., C] times a kernel [C, O], a convolution without spatial axes."""
        return cls(
            op="forward",
            batch=prod(x.shape[:-1]),
            input_size=(),
            output_size=(),
            kernel_size=(),
            in_channels=kernel.shape[0],
            out_channels=kernel.shape[1],
            strides=(),
            padding=(),
            dilation=(),
            groups=1,
            dtype=x.dtype,
            output_dtype=jnp.dtype(dtype or x.dtype),
            precision=precision,
            impl=impl,
        )

    @property
    def result(self) -> Tensor:
        return next(tensor for tensor, op in _OPS.items() if op == self.op)

    @property
    def operands(self) -> tuple[Tensor, Tensor]:
        """The other two tensors, in the order in which they are passed."""
        tensors: list[Tensor] = [tensor for tensor in _OPS if tensor != self.result]
        return tensors[0], tensors[1]

    @property
    def rank(self) -> int:
        return len(self.kernel_size)

    @property
    def window(self) -> tuple[int, ...]:
        """The kernel's size after dilation."""
        return dilated(self.kernel_size, self.dilation)

    @property
    def exact_padding(self) -> Pairs:
        """The padding, less the rest behind the last window: it may crop."""
        sizes = zip(self.input_size, self.output_size)
        windows = zip(self.strides, self.window, self.padding)
        return tuple(
            (low, (o - 1) * s + k - low - n)
            for (n, o), (s, k, (low, _)) in zip(sizes, windows)
        )

    @property
    def multiply_adds(self) -> int:
        """Products that the definition takes, the same for all three operations."""
        kernel = prod(self.kernel_size) * (self.in_channels // self.groups)
        outputs = self.batch * prod(self.output_size) * self.out_channels
        return outputs * kernel * (self.models or 1)

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """Return the shape of one of the three tensors, if it is not shared."""
        seen = self.in_channels // self.groups
        shape = {
            "x": (self.batch, *self.input_size, self.in_channels),
            "kernel": (*self.kernel_size, seen, self.out_channels),
            "y": (self.batch, *self.output_size, self.out_channels),
        }[tensor]
        return shape if self.models is None else (self.models, *shape)

    def shared(self, operand: Any) -> bool:
        """Return whether an operand is the same one for all models."""
        return self.models is not None and operand.ndim == self.rank + 2

    def model_axes(self, *operands: Any) -> tuple[int | None, ...]:
        """Return for each operand the axis of models; None if they share it."""
        return tuple(None if self.shared(operand) else 0 for operand in operands)

    def dtype_of(self, tensor: Tensor) -> DTypeLike:
        return self.output_dtype if tensor == "y" else self.dtype

    def giving(self, tensor: Tensor) -> "Problem":
        """Return the operation that computes a tensor from the other two."""
        return replace(self, op=_OPS[tensor])

    def row(self, pixels: int, channels: int) -> "Problem":
        """Return the forward 1x1 convolution of one row of pixels."""
        return replace(
            self,
            op="forward",
            batch=1,
            input_size=(pixels,),
            output_size=(pixels,),
            kernel_size=(1,),
            in_channels=channels,
            strides=(1,),
            padding=((0, 0),),
            dilation=(1,),
        )

    def one_model(self) -> "Problem":
        return replace(self, models=None)


def highest(precision: Any) -> bool:
    """Return whether the highest is asked for, for an operand at least."""
    each = precision if isinstance(precision, tuple) else (precision,)
    return lax.Precision.HIGHEST in [lax.Precision(p) for p in each if p is not None]
