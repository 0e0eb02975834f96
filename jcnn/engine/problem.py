"""One value that says which convolution is to be computed.

A convolution is a trilinear form of three tensors,

    T(x, w, y) = sum of  x[n, o*s + k*d - low, c] w[k, c, f] y[n, o, f]

and each of its three faces is the gradient of T with respect to the tensor that is
missing: "y" is the convolution itself, "x" its gradient to the input (a transposed
convolution), "w" its gradient to the kernel. Differentiating a face gives another one.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

from jax import lax
from jax.typing import DTypeLike

from .._shapes import Pairs, dilated

Face = Literal["y", "x", "w"]


@dataclass(frozen=True)
class Problem:
    """Sizes and settings of one face, in the layouts NHWC, HWIO, NHWC.

    `padding` lies between 0 and the dilated kernel less one on every side, and the
    input is not dilated: callers bring other problems to this form.
    `dtype` is that of x and w, `output_dtype` that of y.
    `impl` is an algorithm's name or "auto".
    `models` is None, or the length of a leading axis that counts convolutions of equal
    shape (what `jax.vmap` makes of kernels). The face has it, and its operands have it;
    one of these may come without: then all models share it.
    """

    face: Face
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

    @property
    def operands(self) -> tuple[Face, Face]:
        """The faces that come in, in the order in which they are passed."""
        faces: dict[Face, tuple[Face, Face]] = {
            "x": ("w", "y"),
            "w": ("x", "y"),
            "y": ("x", "w"),
        }
        return faces[self.face]

    @property
    def rank(self) -> int:
        return len(self.kernel_size)

    @property
    def window(self) -> tuple[int, ...]:
        """The kernel's size after dilation."""
        return dilated(self.kernel_size, self.dilation)

    @property
    def multiply_adds(self) -> int:
        """Products that the definition takes, the same for all three faces."""
        kernel = prod(self.kernel_size) * (self.in_channels // self.groups)
        outputs = self.batch * prod(self.output_size) * self.out_channels
        return outputs * kernel * (self.models or 1)

    def shape(self, face: Face) -> tuple[int, ...]:
        """The shape of one of the three tensors, if it is not shared."""
        shape = {
            "x": (self.batch, *self.input_size, self.in_channels),
            "w": (
                *self.kernel_size,
                self.in_channels // self.groups,
                self.out_channels,
            ),
            "y": (self.batch, *self.output_size, self.out_channels),
        }[face]
        return shape if self.models is None else (self.models, *shape)

    def shared(self, operand: Any) -> bool:
        """Whether an operand is the same one for all models."""
        return self.models is not None and operand.ndim == self.rank + 2

    def model_axes(self, *operands: Any) -> tuple[int | None, ...]:
        """For each operand the axis that counts models; None if they share it."""
        return tuple(None if self.shared(operand) else 0 for operand in operands)

    def face_dtype(self, face: Face) -> DTypeLike:
        return self.output_dtype if face == "y" else self.dtype

    def for_face(self, face: Face) -> "Problem":
        return replace(self, face=face)

    def one_model(self) -> "Problem":
        return replace(self, models=None)


def precisions(precision: Any) -> tuple[lax.Precision, lax.Precision] | None:
    """One for each operand, as lax writes it."""
    if precision is None:
        return None
    first, second = precision if isinstance(precision, tuple) else (precision,) * 2
    return lax.Precision(first), lax.Precision(second)


def highest(precision: Any) -> bool:
    """Whether the highest is asked for, for an operand at least."""
    return lax.Precision.HIGHEST in (precisions(precision) or ())
