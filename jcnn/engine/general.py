"""Any convolution that lax can express, as a face of a problem.

Gradients of convolutions are convolutions too, and so lax writes them. But they look
odd: the input spread by the strides, or batch and channels exchanged and a window as
large as the image. Here they are recognised for what they are.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from .._shapes import Pairs, dilated
from .lax_convolution import Steps, conv_general_dilated, endangered, misread
from .meshes import compiled_as, sharded_by_type
from .mirror import turned
from .padding import pad_now, split
from .planner import ALGORITHMS
from .primitive import convolve
from .problem import Problem


class Convolution(NamedTuple):
    """The arguments of `lax.conv_general_dilated` but for its operands, in full."""

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
        """From the parameters of lax's primitive."""
        fields = {name: params[name] for name in cls._fields}
        if isinstance(fields["precision"], lax.DotAlgorithm | lax.DotAlgorithmPreset):
            fields["precision"] = None  # lax's convolution takes no notice of them
        return cls(**fields)

    def by_lax(
        self, lhs: jax.Array, rhs: jax.Array, out_sharding: Any = None
    ) -> jax.Array:
        """lax's own convolution, kept from what XLA gets wrong."""
        if jnp.iscomplexobj(lhs) and _other_dtype(self, lhs):
            # lax adds real to imaginary parts before it widens either.
            lhs, rhs = (a.astype(self.preferred_element_type) for a in (lhs, rhs))
        lhs, convolution = self.padded(lhs, rhs)
        settings = convolution._asdict()
        return conv_general_dilated(lhs, rhs, **settings, out_sharding=out_sharding)

    def padded(self, lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, "Convolution"]:
        """The same, with padding done that would read outside of a buffer."""
        spatial = self.dimension_numbers.lhs_spec[2:]
        now, left = split(self.padding, self.window(rhs))
        if not any(map(any, now)):
            return lhs, self
        lhs = _padded(lhs, now, self.lhs_dilation, spatial)
        return lhs, self._replace(padding=left, lhs_dilation=(1,) * len(spatial))

    def is_safe(self, lhs: Any, rhs: Any) -> bool:
        """Whether XLA gets it right just as it is."""
        axes = zip(self.sizes(lhs, rhs), self.steps, self.padding)
        return not any(
            pads[0] < 0 or misread(n, k, step, pads) for (n, k, _), step, pads in axes
        )

    def endangered(self, lhs: Any, rhs: Any) -> bool:
        """Whether XLA might not survive the derivatives that JAX would make of it."""
        return endangered(self.sizes(lhs, rhs), self.steps)

    @property
    def steps(self) -> list[Steps]:
        return list(
            map(Steps, self.lhs_dilation, self.rhs_dilation, self.window_strides)
        )

    def window(self, rhs: Any) -> tuple[int, ...]:
        """The size of the window, after dilation."""
        taps = [rhs.shape[axis] for axis in self.dimension_numbers.rhs_spec[2:]]
        return dilated(taps, self.rhs_dilation)

    def sizes(self, lhs: Any, rhs: Any) -> list[tuple[int, int, int]]:
        """Along each axis the number of pixels, taps and outputs (or less than 1)."""
        numbers = self.dimension_numbers
        pixels = [lhs.shape[axis] for axis in numbers.lhs_spec[2:]]
        taps = [rhs.shape[axis] for axis in numbers.rhs_spec[2:]]
        outputs = [
            (n + low + high - k) // s + 1
            for n, k, s, (low, high) in zip(
                dilated(pixels, self.lhs_dilation),
                self.window(rhs),
                self.window_strides,
                self.padding,
            )
        ]
        return list(zip(pixels, taps, outputs))


class Posed(NamedTuple):
    """A convolution as a problem: how operands come to it and its result goes back."""

    problem: Problem
    operands: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
    result: Callable[[jax.Array], jax.Array]


def convolve_general(
    lhs: jax.Array,
    rhs: jax.Array,
    convolution: Convolution,
    impl: str = "auto",
    sharding: NamedSharding | None = None,
) -> jax.Array:
    """The convolution by the algorithm named, or by the planner's choice.

    By "lax" it is the primitive of lax, which other tools know, wherever its
    derivatives are safe, and else jcnn's. Where types say how arrays are sharded (or
    `sharding` says it of the result), lax computes it.

    Raises:
      ValueError: if the algorithm that is named cannot serve it.
    """
    if sharding is not None or sharded_by_type(jax.typeof(lhs), jax.typeof(rhs)):
        return compiled_as(
            sharding or _sharding(lhs, rhs, convolution),
            lambda lhs, rhs: _convolve(lhs, rhs, convolution, "lax"),
            lhs,
            rhs,
        )
    if impl == "lax":
        lhs, convolution = convolution.padded(lhs, rhs)
        if not convolution.endangered(lhs, rhs):
            return convolution.by_lax(lhs, rhs)
    return _convolve(lhs, rhs, convolution, impl)


def pose(
    lhs: Any, rhs: Any, convolution: Convolution, impl: str = "auto"
) -> Posed | None:
    """The problem that a convolution is, from the shapes and dtypes of its operands.

    None if no algorithm could serve it: sizes that are 0 or (but for the batch) not
    known yet, numbers that are not floating, strides in input and output at once.
    """
    c, rank = convolution, len(convolution.window_strides)
    lhs_spec, rhs_spec, _ = c.dimension_numbers
    known = (*(lhs.shape[axis] for axis in lhs_spec[1:]), *rhs.shape)
    if rank not in (1, 2, 3) or not all(isinstance(n, int) and n for n in known):
        return None
    if lhs.shape[lhs_spec[0]] == 0 or lhs.dtype != rhs.dtype:
        return None
    if not jnp.issubdtype(lhs.dtype, jnp.inexact):
        return None
    _, taps, outputs = zip(*c.sizes(lhs, rhs))
    if min(outputs) <= 0:
        return None
    if any(d > 1 for d in c.lhs_dilation):
        return _as_input_gradient(lhs, rhs, c, outputs, impl)
    large = prod(taps) > prod(outputs) and not _other_dtype(c, lhs)
    if c.feature_group_count == 1 and (c.batch_group_count > 1 or large):
        return _as_kernel_gradient(lhs, rhs, c, outputs, impl)
    if c.batch_group_count > 1:
        return None
    return _as_it_is(lhs, rhs, c, outputs, impl)


def _convolve(
    lhs: jax.Array, rhs: jax.Array, convolution: Convolution, impl: str
) -> jax.Array:
    """By jcnn's primitive if that can be."""
    posed = pose(lhs, rhs, convolution, impl)
    if posed is None or _refusal(impl, posed.problem):
        lhs, convolution = _spread(lhs, convolution)
        posed = pose(lhs, rhs, convolution, impl)
    if posed is None:
        return convolution.by_lax(lhs, rhs)
    if refusal := _refusal(impl, posed.problem):
        raise ValueError(f"impl={impl!r} cannot serve this convolution: {refusal}")
    return posed.result(convolve(posed.problem, *posed.operands(lhs, rhs)))


def _as_it_is(lhs, rhs, c: Convolution, outputs, impl) -> Posed:
    numbers = c.dimension_numbers
    x_order, w_order = _image(numbers.lhs_spec), _kernel(numbers.rhs_spec)
    batch, *size, channels = _permuted(lhs.shape, x_order)
    *taps, _, features = _permuted(rhs.shape, w_order)
    now, left = split(c.padding, dilated(taps, c.rhs_dilation))
    problem = Problem(
        face="y",
        batch=batch,
        input_size=tuple(n + sum(pair) for n, pair in zip(size, now)),
        output_size=outputs,
        kernel_size=tuple(taps),
        in_channels=channels,
        out_channels=features,
        strides=c.window_strides,
        padding=left,
        dilation=c.rhs_dilation,
        groups=c.feature_group_count,
        dtype=lhs.dtype,
        output_dtype=jnp.dtype(c.preferred_element_type or lhs.dtype),
        precision=c.precision,
        impl=impl,
    )
    return Posed(
        problem,
        lambda x, w: (pad_now(x.transpose(x_order), now), w.transpose(w_order)),
        lambda y: y.transpose(_inverse(_image(numbers.out_spec))),
    )


def _as_input_gradient(lhs, rhs, c: Convolution, outputs, impl) -> Posed | None:
    """An input spread by strides: those of the convolution that is transposed."""
    if any(s > 1 for s in c.window_strides) or c.batch_group_count > 1:
        return None
    if _other_dtype(c, lhs):
        return None
    numbers = c.dimension_numbers
    y_order, w_order = _image(numbers.lhs_spec), _kernel(numbers.rhs_spec)
    batch, *size, channels = _permuted(lhs.shape, y_order)
    *taps, _, features = _permuted(rhs.shape, w_order)
    window = dilated(taps, c.rhs_dilation)
    lows = [k - 1 - low for k, (low, _) in zip(window, c.padding)]
    pads = _pads(outputs, size, window, c.lhs_dilation, lows)
    now, left = split(pads, window)
    if any(pair != (0, 0) for pair in now):
        return None
    problem = Problem(
        face="x",
        batch=batch,
        input_size=outputs,
        output_size=tuple(size),
        kernel_size=tuple(taps),
        in_channels=features,
        out_channels=channels,
        strides=c.lhs_dilation,
        padding=left,
        dilation=c.rhs_dilation,
        groups=c.feature_group_count,
        dtype=lhs.dtype,
        output_dtype=lhs.dtype,
        precision=c.precision,
        impl=impl,
    )
    return Posed(
        problem,
        lambda y, w: (
            turned(w.transpose(w_order), c.feature_group_count),
            y.transpose(y_order),
        ),
        lambda x: x.transpose(_inverse(_image(numbers.out_spec))),
    )


def _as_kernel_gradient(lhs, rhs, c: Convolution, outputs, impl) -> Posed | None:
    """A window larger than what comes out: the sum over positions is the window's."""
    if _other_dtype(c, lhs):
        return None
    numbers = c.dimension_numbers
    # What lax calls channels is the batch here, and the other way round.
    x_order = (numbers.lhs_spec[1], *numbers.lhs_spec[2:], numbers.lhs_spec[0])
    y_order = (numbers.rhs_spec[1], *numbers.rhs_spec[2:], numbers.rhs_spec[0])
    w_order = (*numbers.out_spec[2:], numbers.out_spec[0], numbers.out_spec[1])
    batch, *size, channels = _permuted(lhs.shape, x_order)
    _, *positions, features = _permuted(rhs.shape, y_order)
    window = dilated(outputs, c.window_strides)
    lows = [low for low, _ in c.padding]
    now, left = split(_pads(size, positions, window, c.rhs_dilation, lows), window)
    problem = Problem(
        face="w",
        batch=batch,
        input_size=tuple(n + sum(pair) for n, pair in zip(size, now)),
        output_size=tuple(positions),
        kernel_size=outputs,
        in_channels=channels,
        out_channels=features,
        strides=c.rhs_dilation,
        padding=left,
        dilation=c.window_strides,
        groups=c.batch_group_count,
        dtype=lhs.dtype,
        output_dtype=lhs.dtype,
        precision=c.precision,
        impl=impl,
    )
    return Posed(
        problem,
        lambda x, y: (pad_now(x.transpose(x_order), now), y.transpose(y_order)),
        lambda w: w.transpose(_inverse(w_order)),
    )


def _other_dtype(c: Convolution, lhs: Any) -> bool:
    """Whether the result is to have another dtype than the operands."""
    preferred = c.preferred_element_type
    # Not `preferred in (None, ...)`: NumPy's dtype float64 is equal to None.
    return preferred is not None and jnp.dtype(preferred) != lhs.dtype


def _pads(size, positions, window, strides, lows) -> Pairs:
    """High padding (or cropping) so that a window has just these positions."""
    pads = []
    for n, o, k, s, low in zip(size, positions, window, strides, lows):
        rest = n + low - ((o - 1) * s + k)
        pads.append((low, 0 if 0 <= rest < s else -rest))
    return tuple(pads)


def _spread(lhs: jax.Array, c: Convolution) -> tuple[jax.Array, Convolution]:
    """The same convolution with the holes in its input made."""
    axes = c.dimension_numbers.lhs_spec[2:]
    lhs = _padded(lhs, ((0, 0),) * len(axes), c.lhs_dilation, axes)
    return lhs, c._replace(lhs_dilation=(1,) * len(axes))


def _padded(lhs: jax.Array, now: Pairs, dilation, axes) -> jax.Array:
    """As `pad_now`; XLA may not take the holes into the window, where it misreads them.

    (FoldConvInputPad in algebraic_simplifier.cc, and then see `lax_convolution`.)
    """
    padded = pad_now(lhs, now, dilation, axes)
    return lax.optimization_barrier(padded) if any(d > 1 for d in dilation) else padded


def _refusal(impl: str, problem: Problem) -> str | None:
    return ALGORITHMS[impl].unsupported_reason(problem) if impl != "auto" else None


def _sharding(lhs: jax.Array, rhs: jax.Array, c: Convolution) -> NamedSharding:
    """As lax's result is laid out; features may be split as the kernel's are."""
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


def _image(spec: Sequence[int]) -> tuple[int, ...]:
    """The axes in the order N, *spatial, C."""
    return (spec[0], *spec[2:], spec[1])


def _kernel(spec: Sequence[int]) -> tuple[int, ...]:
    """The axes in the order *spatial, I, O."""
    return (*spec[2:], spec[1], spec[0])


def _permuted(shape: tuple[int, ...], order: tuple[int, ...]) -> list[int]:
    return [shape[axis] for axis in order]


def _inverse(order: tuple[int, ...]) -> list[int]:
    return sorted(range(len(order)), key=order.__getitem__)
