"""Plain JAX with a gradient per example, clipped each, as for differential privacy.

Abadi et al. (2016), algorithm 1, without its noise; for "mnist", which has no batch norm.
"""

import jax
import jax.numpy as jnp
import optax

from . import jax_, workload
from .workload import AnyModel, Dtype, Step

LARGEST_NORM = 1.0


def make(
    model: AnyModel, examples: int | None = None, dtype: Dtype = "float32"
) -> Step:
    if model != "mnist":
        raise ValueError(
            f'model must be "mnist", which has no batch norm, got {model!r}'
        )
    images, labels = map(jnp.asarray, workload.batch(model, examples))
    params = jax_.init_mnist(iter(jax.random.split(jax.random.key(0), 64)))
    tx = optax.adam(workload.LEARNING_RATE)
    state = params, tx.init(params)

    def loss_fn(params, image, label):
        logits, _ = jax_.mnist(params, {}, image[None].astype(dtype))
        return optax.softmax_cross_entropy_with_integer_labels(
            logits[0].astype(jnp.float32), label
        )

    def clipped(params, image, label):
        loss, grads = jax.value_and_grad(loss_fn)(params, image, label)
        factor = jnp.minimum(1, LARGEST_NORM / optax.global_norm(grads))
        return loss, jax.tree.map(lambda g: g * factor, grads)

    def step(state, images, labels):
        params, opt_state = state
        of_each = jax.vmap(clipped, (None, 0, 0))(params, images, labels)
        loss, grads = jax.tree.map(lambda a: a.mean(0), of_each)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    step = jax.jit(step, donate_argnums=0)

    def run() -> float:
        nonlocal state
        state, loss = jax.block_until_ready(step(state, images, labels))
        return float(loss)

    return Step(run, sum(p.size for p in jax.tree.leaves(params)))
