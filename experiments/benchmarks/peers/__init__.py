"""One train step of the same models in several frameworks.

Each file has `make(model, examples=None, dtype="float32")`, which builds a model and
returns a `Step`.
"""

from importlib.util import find_spec
from typing import Literal, NamedTuple

Name = Literal[
    "jcnn",
    "jcnn_scan",
    "jax",
    "jax+",
    "jax_per_example",
    "flax_nnx",
    "flax_linen",
    "equinox",
    "haiku",
    "keras",
    "torch",
    "torch_compile",
]


class Peer(NamedTuple):
    module: str  # in this folder
    package: str  # what it needs beside jax and optax

    @property
    def installed(self) -> bool:
        return find_spec(self.package) is not None


PEERS: dict[str, Peer] = {
    "jcnn": Peer("jcnn_", "jax"),
    "jcnn_scan": Peer("jcnn_scan", "jax"),
    "jax": Peer("jax_", "jax"),
    "jax+": Peer("jax_plus", "jax"),
    "jax_per_example": Peer("jax_per_example", "jax"),
    "flax_nnx": Peer("flax_nnx", "flax"),
    "flax_linen": Peer("flax_linen", "flax"),
    "equinox": Peer("equinox_", "equinox"),
    "haiku": Peer("haiku_", "haiku"),
    "keras": Peer("keras_", "keras"),
    "torch": Peer("torch_", "torch"),
    "torch_compile": Peer("torch_compile", "torch"),
}
