"""What a network consists of: its traced program is read, nothing is computed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._layer import leaf_name
from ..combine import Part, as_layers
from ..engine import acceleration
from ..layers import Layer
from .fields import image_view
from .grouping import field_of, group, names_of
from .reader import CONVOLUTIONS, Reader, Step, total


class Row(NamedTuple):
    """One part of a network, with the sizes and counts of one example.

    None stands for what the program does not determine.
    """

    name: str
    output_shape: tuple[int, ...] | None
    params: int
    multiply_adds: int | None
    receptive_field: tuple[int | None, ...]  # pixels that one value depends on, at most
    param_bytes: int = 0
    output_bytes: int | None = None
    algorithm: str = ""  # of its convolutions


def summarize(
    layer: Part | Callable[..., Any], *args: Any, accelerated: bool | None = None
) -> list[Row]:
    """Return the parts that have parameters, sum products or change the shape.

    `summarize(layer, x)` or, of any JAX function, `summarize(function, params, x)`.

    A part is a named scope, as `serial`, Flax Linen, Haiku and Keras open them. Where
    there is none (Flax NNX, functions of lax), it begins with a convolution, matrix
    product or pool, or with parameters from another place in `params`. That place is
    its name, such as "layers/0", or if it says nothing, "convolution 1". Equinox opens
    one scope for all layers of a class: they too are named by their place.

    Args:
        layer: A layer, a function of one array, or a function of all that follows.
        *args: The input [N, *spatial, C], or [N, C, *spatial] if convolutions take it
            so: an array or `jax.ShapeDtypeStruct`. N matters for algorithms only.
            Before it, for a function of more, a pytree of parameters, and then any
            others, which are not counted.
        accelerated: As for `explain`.

    Returns:
        Rows in the order of computation.

        - Parameters are the floating-point arrays that the input first meets in this
          part, as they are or after operations on parameters alone. Those that it
          never meets come last; those that a function closes over are not counted.
        - Multiply-adds are those of convolutions and matrix products, in loops as often
          as they run, of the branches of a condition those of the most expensive one.
        - Receptive fields are those of the forward pass (Araujo, Norris and Sim,
          "Computing Receptive Fields", 2019), at most the image; pixels that padding
          modes add do not count.
        - Bytes are those of the parameters, and of the output of one example, which
          training may have to keep for the backward pass.
        - Algorithms are those of `explain` for N examples, forward. There are none if
          JAX's default device is no CPU.

        What the program does not determine is None: the products of a while loop, or
        the receptive field behind a gather.

    Raises:
        TypeError: If layer is neither a layer nor a function, or x is no array.

    >>> import jax.numpy as jnp
    >>> from jcnn.models import lenet5
    >>> for row in summarize(lenet5(), jnp.zeros((1, 28, 28, 1)))[:3]:
    ...     print(row.name, row.output_shape, row.params, row.multiply_adds)
    conv1 (28, 28, 6) 156 117600
    pool1 (14, 14, 6) 0 0
    conv2 (10, 10, 16) 2416 240000
    >>> def network(params, x):
    ...     return jax.nn.relu(jax.lax.conv(x, params["w"], (2, 2), "SAME"))
    >>> params = {"w": jnp.zeros((8, 3, 5, 5))}
    >>> summarize(network, params, jnp.zeros((1, 3, 32, 32)))[0][:5]
    ('convolution 1', (8, 16, 16), 600, 153600, (5, 5))
    """
    params, steps = _read(layer, args, accelerated)
    rows, shown, unread, shape = [], [], dict(params), args[-1].shape[1:]
    for part in group(steps, {leaf: holder for leaf, (holder, _) in params.items()}):
        output = part.result.output
        products = total([step.multiply_adds for step in part.steps])
        read = {leaf for step in part.steps for leaf in step.leaves} & unread.keys()
        count, num_bytes = _count(unread.pop(leaf)[1] for leaf in read)
        if count or products != 0 or output.shape[1:] != shape:
            shape = output.shape[1:]
            first = output.shape[:1] == (1,)  # else the examples are along another axis
            one, field = shape if first else None, field_of(part.result)
            algorithms = dict.fromkeys(s.algorithm for s in part.steps if s.algorithm)
            sizes = num_bytes, _count([output])[1], ", ".join(algorithms)
            rows.append(Row("", one, count, products, field, *sizes))
            shown.append(part)
    rows = [row._replace(name=name) for row, name in zip(rows, names_of(shown))]
    unknown = (None,) * (len(args[-1].shape) - 2)
    for place in dict.fromkeys(holder for holder, _ in unread.values()):
        count, num_bytes = _count(a for holder, a in unread.values() if holder == place)
        rows.append(Row(place, None, count, 0, unknown, num_bytes))
    return rows


def receptive_field(
    layer: Part, x: Any, part: str, position: Sequence[int]
) -> tuple[slice, ...]:
    """Return the pixels that one position of a part's output depends on.

    Args:
        layer, x: As for `summarize`.
        part: Path of the part, such as "stage2/conv1".
        position: Of its output, an index for each spatial dimension; none if the output
            has no such dimensions.

    Returns:
        A slice for each spatial dimension of x, from the first to the last of them.

    Raises:
        TypeError: As `summarize`.
        ValueError: If there is no such part or position, or what it depends on is not
            known.

    >>> import jax.numpy as jnp
    >>> from jcnn.models import lenet5
    >>> receptive_field(lenet5(), jnp.zeros((1, 28, 28, 1)), "conv2", (0, 9))
    (slice(0, 12, None), slice(16, 28, None))
    """
    _, steps = _read(layer, (x,))
    found = {step.scope: step for step in steps}
    if part not in found:
        raise ValueError(f"part must be one of {', '.join(found)}, got {part!r}")
    shape, views = found[part].output.shape, found[part].views
    size, position = shape[1 : 1 + len(position)], tuple(position)
    inside = all(0 <= i < n for i, n in zip(position, size))
    if len(position) not in (0, len(shape) - 2) or not inside:
        raise ValueError(
            f"position must be within {shape[1:-1]}, the positions of {part}, "
            f"got {position}"
        )
    slices = []
    for view in views:
        if view is None:
            raise ValueError(f"part must see pixels that are known, {part} does not")
        at = [0 if n == 1 else i for i, n in zip(position, view.shape[1:])]
        bounds = view[(slice(None), *at)].reshape(-1, 2).min(0)
        slices.append(slice(int(bounds[0]), int(1 - bounds[1])))
    return tuple(slices)


def _read(
    layer: Any, args: Sequence[Any], accelerated: bool | None = None
) -> tuple[dict[int, tuple[str, Any]], list[Step]]:
    """Return parameters by leaf, with their holders, and steps with spatial views."""
    others: Sequence[Any] = args[:-1]
    x: Any = args[-1] if args else None
    if not others:
        layer = as_layers({"layer": layer})["layer"]
    elif isinstance(layer, Layer) or not callable(layer):
        raise TypeError(
            f"layer must be a function where params are given, got {type(layer)}"
        )
    if not getattr(x, "shape", ()):
        raise TypeError(f"x must be an array or ShapeDtypeStruct [N, …], got {x!r}")
    image = _struct((1, *x.shape[1:]), x.dtype)
    function = layer
    if not others:
        others = jax.eval_shape(layer.init, jax.random.key(0), image)
        function = lambda *args: layer.apply(*args)[0]  # noqa: E731
    flat, tree = jax.tree.flatten_with_path((*others, image))
    arrays = {
        i: _struct(leaf.shape, leaf.dtype)
        for i, (_, leaf) in enumerate(flat)
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype")
    }

    def call(arrays):
        leaves = [arrays.get(i, leaf) for i, (_, leaf) in enumerate(flat)]
        return function(*tree.unflatten(leaves))

    program = jax.make_jaxpr(call)(arrays)
    *avals, image = (v.aval for v in program.jaxpr.invars)
    params = {
        leaf: (_holder(flat[i][0]), aval)
        for leaf, (i, aval) in enumerate(zip(arrays, avals))
        if flat[i][0][0].idx == 0 and jnp.issubdtype(aval.dtype, jnp.inexact)
    }
    views = tuple(image_view(image.shape, axis) for axis in range(1, len(image.shape)))
    if accelerated is None:
        accelerated = acceleration.in_force()
    reader = Reader(len(views), accelerated, x.shape[0])
    inputs = [frozenset([leaf]) for leaf in range(len(avals))]
    reader.read(program.jaxpr, [*inputs, views], "")
    steps = reader.steps
    # The first convolution slides along all axes but that of the channels.
    first = next((s.views for s in steps if s.primitive in CONVOLUTIONS), views)
    rest = [axis for axis, view in enumerate(first) if view is None or view.size == 2]
    axis = rest[0] if len(rest) == 1 else len(views) - 1
    return params, [
        s._replace(views=s.views[:axis] + s.views[axis + 1 :]) for s in steps
    ]


def _struct(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    dtype = jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
    return jax.ShapeDtypeStruct(shape, dtype)


def _holder(path: Any) -> str:
    """Return "layers/0" of the path, behind the argument, of "layers/0/kernel"."""
    name = leaf_name(path[1:])
    # Flax's variables hold their arrays as "value".
    return name.removesuffix("/value").rpartition("/")[0]


def _count(arrays: Iterable[Any]) -> tuple[int, int]:
    """Return the number of values of arrays, and of their bytes."""
    sizes = [(a.size, a.size * a.dtype.itemsize) for a in arrays]
    return sum(size for size, _ in sizes), sum(n for _, n in sizes)
