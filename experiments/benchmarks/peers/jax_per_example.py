"""Plain JAX with a gradient per example, clipped each, as for differential privacy.

Abadi et al. (2016), algorithm 1, without noise. The model is "vgg" of half the width,
without batch norm, which would mix examples.
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
    if model != "vgg":
        raise ValueError(f'model must be "vgg", got {model!r}')
    images, labels = map(jnp.asarray, workload.batch(model, examples))
    params = jax_.init_vgg(iter(jax.random.split(jax.random.key(0), 64)), shrink=2)
    tx = optax.adam(workload.LEARNING_RATE)
    state = params, tx.init(params)

    def loss_fn(params, image, label):
        x = image[None].astype(dtype)
        for i, unit in enumerate(params["units"]):
            x = jax_.conv(x, unit.kernel) * unit.scale.astype(dtype)
            x = jax.nn.relu(x + unit.bias.astype(dtype))
            x = x if i % 2 == 0 else jax_.max_pool(x)
        (logits,) = jax_.dense(params["head"], x.mean((1, 2))).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    def step(state, images, labels):
        params, opt_state = state
        losses, grads = jax.vmap(jax.value_and_grad(loss_fn), (None, 0, 0))(
            params, images, labels
        )
        norms = jax.vmap(optax.global_norm)(grads)
        weights = jnp.minimum(1, LARGEST_NORM / norms) / len(labels)
        grads = jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), grads)
        updates, opt_state = tx.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), losses.mean()

    step = jax.jit(step, donate_argnums=0)

    def run() -> float:
        nonlocal state
        state, loss = jax.block_until_ready(step(state, images, labels))
        return float(loss)

    return Step(run, sum(p.size for p in jax.tree.leaves(params)))
