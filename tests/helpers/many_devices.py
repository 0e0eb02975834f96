"""Trainings on some of eight devices, for a process of its own: prints them as JSON."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jcnn
from jcnn.layers import BatchNorm, Conv, Dense, Dropout, MaxPool
from jcnn.train import (
    batch_at,
    classification,
    create,
    data_parallel,
    make_evaluate,
    make_scan,
    make_step,
    shard_batch,
    state_sharding,
)

STEPS, BATCH, MIN_SIZE = 6, 16, 100
MODEL = jcnn.serial(
    conv1=Conv(16, 3, impl="lax"),
    norm1=BatchNorm(),
    relu1=jax.nn.relu,
    pool1=MaxPool(2),
    flatten=jcnn.flatten,
    drop1=Dropout(0.2),
    head=Dense(10),
)
LOSS, METRICS = classification(MODEL, lambda images, key: images / jnp.float32(255))
TX = optax.sgd(0.05, momentum=0.9)


def begun():
    return create(MODEL, TX, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), ema=True)


def trained(data, mesh=None, *, min_size=None, accumulate=1):
    """Return losses of steps and of a test, and what the program exchanges."""
    state, how = begun(), {"accumulate": accumulate, "ema_decay": 0.9}
    loss, metrics, wanted = LOSS, METRICS, None
    if mesh is not None:
        wanted = state_sharding(state, mesh, min_size=min_size)
        state = jax.device_put(state, wanted)
        data = jax.device_put(data, NamedSharding(mesh, PartitionSpec()))
        loss, metrics = (data_parallel(f, mesh) for f in (LOSS, METRICS))
    scan = make_scan(loss, TX, batch_size=BATCH, num_steps=STEPS, **how)
    program = scan.lower(state, data).compile()
    state, by_step = program(state, data)
    if wanted is not None:
        pairs = zip(jax.tree.leaves(state), jax.tree.leaves(wanted))
        assert all(a.sharding.is_equivalent_to(s, a.ndim) for a, s in pairs)
    return {
        "losses": by_step["loss"].tolist(),
        "test": make_evaluate(metrics, batch_size=BATCH)(state, data),
        "exchanged": exchanged(program.as_text()),
    }


def stepped(data, mesh):
    """Return the losses of steps that get their batches from the host."""
    step = make_step(data_parallel(LOSS, mesh), TX, ema_decay=0.9)
    state, losses = begun(), []
    state = jax.device_put(state, state_sharding(state, mesh))
    for i in range(STEPS):
        batch = jax.device_get(batch_at(jax.random.key(0), i, data, BATCH))
        state, found = step(state, shard_batch(batch, mesh))
        losses.append(float(found["loss"]))
    return {"losses": losses}


def exchanged(text):
    """Return the shapes that each kind of collective has in XLA's program."""
    found = {}
    pattern = r"= \(?(.*?)\)? (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\("
    for shapes, kind in re.findall(pattern, text):
        found.setdefault(kind, []).extend(re.findall(r"\w+\[[\d,]*\]", shapes))
    return found


def main():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (96, 8, 8, 1)).astype(np.uint8)
    data = {"image": pixels, "label": rng.integers(0, 10, 96).astype(np.int32)}

    def mesh(kind, **axes):
        kinds = (AxisType[kind],) * len(axes)
        return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds)

    accumulated = {"min_size": MIN_SIZE, "accumulate": 2}
    results = {"1": trained(data), "1 accumulated": trained(data, accumulate=2)}
    for number in (2, 4, 8):
        results[f"{number} Auto"] = trained(data, mesh("Auto", data=number))
    results["8 Explicit"] = trained(data, mesh("Explicit", data=8))
    for kind in ("Auto", "Explicit"):
        results[f"stepped {kind}"] = stepped(data, mesh(kind, data=4))
        plane = mesh(kind, a=2, b=2)
        results[f"sharded {kind}"] = trained(data, plane, min_size=MIN_SIZE)
    results["sharded Auto accumulated"] = trained(
        data, mesh("Auto", data=4), **accumulated
    )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
