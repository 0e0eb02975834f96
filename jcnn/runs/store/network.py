"""The trained network in the folder of a run, used without its program and its data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jax.typing import ArrayLike

from ..._files import open_file, read_object, write_file
from ...data import Dataset
from .digests import digest_bytes
from .folder import write_json
from .weights import read_weights

_PROGRAM, _FACTS = "network.jaxexport", "network.json"
_WEIGHTS = "params.safetensors"
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_MOST_BYTES = 1 << 30


class Network(NamedTuple):
    """A trained network.

    Attributes:
        logits: The function from images [N, H, W, C], at least one, as the run's data
            had them, to the network's output, mostly logits [N, classes]. It prepares
            the images.
        image_shape: (H, W, C).
        image_dtype: Of the images, mostly uint8.
        class_names: Names of the classes; their numbers if they have none.
    """

    logits: Callable[[ArrayLike], jax.Array]
    image_shape: tuple[int, ...]
    image_dtype: jnp.dtype
    class_names: tuple[str, ...]


def write_network(
    run_dir: Path,
    logits: Callable[[Any, Any, jax.Array], jax.Array],
    params: Any,
    model_state: Any,
    data: Dataset,
) -> None:
    """Write `network.jaxexport`, for any number of images, and `network.json`.

    The program has its gradient too.

    Args:
        run_dir: Folder of the run.
        logits: (params, model state, images [N, H, W, C]) -> the network's output.
        params, model_state: Nested dicts of arrays; they are not written.
        data: Images and classes.

    Raises:
        Exception: Whatever tracing or export raises.
    """
    (number,) = export.symbolic_shape("N")
    images = jax.ShapeDtypeStruct((number, *data.image.shape[1:]), data.image.dtype)
    weights = jax.tree.map(jax.typeof, (params, model_state))
    program = export.export(jax.jit(logits), platforms=_PLATFORMS)(*weights, images)
    names = data.class_names or tuple(map(str, range(data.num_classes)))
    content = bytes(program.serialize(vjp_order=1))
    write_file(run_dir / _PROGRAM, content)
    write_json(
        run_dir / _FACTS, {"class_names": names, "sha256": digest_bytes(content)}
    )


def load(run: str | Path) -> Network:
    """Load the network that a run has trained, by its averaged parameters if any.

    Neither the run's program nor its data are needed. What the file of the network
    contains is executed, so load only runs that you trust.

    Raises:
        FileNotFoundError: If the run has not ended, or is of a version of jcnn that did
            not write its network.
        ModuleNotFoundError: If flatbuffers or safetensors is not installed.
        ValueError: If a file is damaged.
    """
    program, weights, names = _read(Path(run))
    *_, images = program.in_avals
    apply, shape = jax.jit(program.call), images.shape[1:]

    def logits(x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        if x.shape[1:] != shape or x.dtype != images.dtype or not len(x):
            raise ValueError(
                f"images must be {images.dtype} [N, {', '.join(map(str, shape))}] with "
                f"N of at least 1, got {x.dtype} {list(x.shape)}"
            )
        return apply(*weights, x)

    return Network(logits, shape, images.dtype, names)


def export_network(run: str | Path, path: Path | None = None) -> export.Exported:
    """Write a run's network, with its weights, as a function of images alone.

    `jax.export.deserialize` reads it in a process that has JAX and flatbuffers only.

    Args:
        run: Folder of a run that has ended.
        path: File to write; None for `inference.jaxexport` in the folder of the run.

    Returns:
        The function, from images [N, H, W, C] of any number N > 0 to the output.

    Raises:
        OSError: If it cannot be written; and all that `load` raises.
    """
    program, weights, _ = _read(Path(run))
    *_, images = program.in_avals

    def infer(images):
        return program.call(*weights, images)

    exported = export.export(jax.jit(infer), platforms=program.platforms)(images)
    path = Path(run) / "inference.jaxexport" if path is None else path
    write_file(path, bytes(exported.serialize()))
    return exported


def _read(run_dir: Path) -> tuple[export.Exported, tuple[Any, Any], tuple[str, ...]]:
    """Return the program, its parameters and model state, and the classes."""
    try:
        facts = read_object(run_dir / _FACTS)
        names = tuple(map(str, facts["class_names"]))
        with open_file(run_dir / _PROGRAM, _MOST_BYTES) as file:
            content = file.read()
        weights = read_weights(run_dir / _WEIGHTS)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{run_dir} must be the folder of a run that has ended and wrote its "
            f"network, there is no {Path(str(error.filename)).name}"
        ) from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"{run_dir / _FACTS} is damaged: {error}") from error
    if facts.get("sha256") != digest_bytes(content):
        raise ValueError(f"{run_dir / _PROGRAM} is damaged, or of another run")
    program = export.deserialize(bytearray(content))
    (*expected, _), _ = program.in_tree.unflatten(program.in_avals)
    if _described(weights) != _described(tuple(expected)):
        raise ValueError(f"{run_dir / _WEIGHTS} is of another network")
    return program, weights, names


def _described(tree: Any) -> Any:
    return jax.tree.map(lambda array: (array.shape, array.dtype), tree)
