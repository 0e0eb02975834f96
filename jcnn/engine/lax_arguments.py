"""The arguments of `lax.conv_general_dilated`, and that convolution itself."""

from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from .._shapes import Pairs, dilated, num_positions
from .xla_faults import (
    Steps,
    conv_general_dilated,
    derivative_like_groups,
    like_groups,
    pad_apart,
    split_padding,
)


@cache
def channels_last(rank: int) -> lax.ConvDimensionNumbers:
    """Return the order of axes in images NHWC and kernels HWIO."""
    image = (0, rank + 1, *range(1, rank + 1))
    return lax.ConvDimensionNumbers(image, (rank + 1, rank, *range(rank)), image)


class Convolution(NamedTuple):
    """All arguments of `lax.conv_general_dilated` but its operands."""

    window_strides: tuple[int, ...]
    padding: Pairs
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    dimension_numbers: lax.ConvDimensionNumbers
    feature_group_count: int = 1
    batch_group_count: int = 1
    precision: Any = None
    preferred_element_type: DTypeLike | None = None

    @classmethod
    def of(cls, params: dict[str, Any]) -> "Convolution":
        """Return the arguments, from the parameters of lax's primitive."""
        fields = {name: params[name] for name in cls._fields}
        if isinstance(fields["precision"], lax.DotAlgorithm | lax.DotAlgorithmPreset):
            fields["precision"] = None  # lax's convolution takes no notice of them
        return cls(**fields)

    def by_lax(
        self, lhs: jax.Array, rhs: jax.Array, out_sharding: Any = None
    ) -> jax.Array:
        """Compute lax's own convolution, kept from the faults of XLA."""
        if jnp.iscomplexobj(lhs) and self.widens(lhs):
            # lax adds real to imaginary parts before it widens either.
            lhs, rhs = (a.astype(self.preferred_element_type) for a in (lhs, rhs))
        lhs, convolution = self.padded(lhs, rhs)
        settings = convolution._asdict()
        return conv_general_dilated(lhs, rhs, **settings, out_sharding=out_sharding)

    def padded(self, lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, "Convolution"]:
        """Do the padding that XLA would get wrong; return the convolution left."""
        now, left = split_padding(self.padding, self.window(rhs))
        if not any(map(any, now)):
            return lhs, self
        lhs, convolution = self.dilated(lhs, now)
        return lhs, convolution._replace(padding=left)

    def widens(self, lhs: Any) -> bool:
        """Return whether the result is to have another dtype than the operands."""
        preferred = self.preferred_element_type
        # Not `preferred in (None, ...)`: NumPy's dtype float64 is equal to None.
        return preferred is not None and jnp.dtype(preferred) != lhs.dtype

    def dilated(
        self, lhs: jax.Array, pads: Pairs | None = None
    ) -> tuple[jax.Array, "Convolution"]:
        """Dilate (and pad) the input; return the convolution left."""
        axes = self.dimension_numbers.lhs_spec[2:]
        ones, none = (1,) * len(axes), ((0, 0),) * len(axes)
        lhs = pad_apart(lhs, pads or none, self.lhs_dilation, axes)
        return lhs, self._replace(lhs_dilation=ones)

    def is_safe(self, lhs: Any, rhs: Any) -> bool:
        """Return whether XLA computes it correctly as it is."""
        axes = zip(self.sizes(lhs, rhs), self.steps, self.padding)
        return not any(
            pads[0] < 0 or like_groups(n, k, step, pads)
            for (n, k, _), step, pads in axes
        )

    def is_safe_derived(self, lhs: Any, rhs: Any) -> bool:
        """Return whether XLA computes JAX's derivatives of it correctly."""
        return not derivative_like_groups(self.sizes(lhs, rhs), self.steps)

    @property
    def steps(self) -> list[Steps]:
        return list(
            map(Steps, self.lhs_dilation, self.rhs_dilation, self.window_strides)
        )

    def window(self, rhs: Any) -> tuple[int, ...]:
        """Return the size of the window, after dilation."""
        taps = [rhs.shape[axis] for axis in self.dimension_numbers.rhs_spec[2:]]
        return dilated(taps, self.rhs_dilation)

    def sizes(self, lhs: Any, rhs: Any) -> list[tuple[int, int, int]]:
        """Return for each axis the number of pixels, taps and outputs (maybe < 1)."""
        numbers = self.dimension_numbers
        pixels = [lhs.shape[axis] for axis in numbers.lhs_spec[2:]]
        taps = [rhs.shape[axis] for axis in numbers.rhs_spec[2:]]
        size, window = dilated(pixels, self.lhs_dilation), self.window(rhs)
        outputs = num_positions(size, window, self.window_strides, self.padding)
        return list(zip(pixels, taps, outputs))
