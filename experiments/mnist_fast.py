"""MNIST to 99 % in as little time as possible, counted from the start of Python.

The network and the one-cycle rate of tuomaso/train_mnist_fast, and smoothed labels.
What takes time is to import, to load, to compile, and then the steps; so initial
weights, training and test are one program, and there is no run folder:
`time python -m experiments.mnist_fast`.
"""

import argparse
import sys
import time

BEGAN = time.perf_counter()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

from jcnn import Layer, flatten, serial  # noqa: E402
from jcnn.data import load  # noqa: E402
from jcnn.layers import Conv, Dense, MaxPool  # noqa: E402
from jcnn.train import classification, create, make_scan  # noqa: E402

BATCH, PEAK, EPOCHS = 128, 0.006, 1.2


def prepare(images: jax.Array, key: jax.Array | None = None) -> jax.Array:
    """Mean 0 and deviation 1 of all pixels."""
    return (images.astype(jnp.float32) - 33.3) / 78.6


def model() -> Layer:
    return serial(
        conv1=Conv(24, 5, padding="VALID"),
        pool1=MaxPool(2),
        relu1=jax.nn.relu,
        conv2=Conv(32, 3, padding="VALID"),
        pool2=MaxPool(2),
        relu2=jax.nn.relu,
        flatten=flatten,
        fc1=Dense(256),
        relu3=jax.nn.relu,
        head=Dense(10),
    )


def run(train, test, seed: jax.Array) -> jax.Array:
    """Train; return for each test image whether it is recognised."""
    layer, num_steps = model(), int(EPOCHS * len(train["label"])) // BATCH
    loss_fn, _ = classification(layer, prepare, label_smoothing=0.1)
    tx = optax.adam(optax.cosine_onecycle_schedule(num_steps, PEAK), b1=0.7, b2=0.9)
    state = create(layer, tx, jax.random.key(seed), prepare(train["image"][:1]))
    steps = make_scan(loss_fn, tx, batch_size=BATCH, num_steps=num_steps)
    state, _ = steps(state, train)

    def predict(images):
        logits, _ = layer.apply(state.params, state.model_state, prepare(images))
        return logits.argmax(-1)

    images = test["image"].reshape(-1, 500, *test["image"].shape[1:])
    return jax.lax.map(predict, images).ravel() == test["label"]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--data-dir", help="by default the variable JCNN_DATA_DIR")
    options = parser.parse_args(arguments)
    times = {"import": time.perf_counter() - BEGAN}
    train, test = (
        {"image": found.image, "label": found.label}
        for found in (
            load("mnist", split, data_dir=options.data_dir)
            for split in ("train", "test")
        )
    )
    times["load"] = time.perf_counter() - BEGAN
    seed = jnp.uint32(options.seed)
    program = jax.jit(run).lower(train, test, seed).compile()
    times["compile"] = time.perf_counter() - BEGAN
    right = program(train, test, seed).mean()
    print(f"test accuracy {right:.2%}")
    times["train and test"] = time.perf_counter() - BEGAN
    print(", ".join(f"{name} until {seconds:.2f} s" for name, seconds in times.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
