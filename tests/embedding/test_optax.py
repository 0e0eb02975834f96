"""Optax's L-BFGS, whose line search needs values and gradients that agree."""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from .small import assert_same_both_ways

STEPS = 15


def test_lbfgs_with_zoom_line_search_finds_the_kernels(rng):
    shapes = {"first": (3, 3, 2, 4), "second": (1, 1, 4, 3)}
    true, start = (
        {
            name: jnp.asarray(rng.normal(size=s) / 3, "float32")
            for name, s in shapes.items()
        }
        for _ in range(2)
    )
    x = jnp.asarray(rng.normal(size=(4, 6, 5, 2)), "float32")

    def fit(convolve, true, start, x):
        def network(params):
            return convolve(jnp.tanh(convolve(x, params["first"])), params["second"])

        y = network(true)

        def loss(params):
            return jnp.mean((network(params) - y) ** 2)

        tx = optax.lbfgs(linesearch=optax.scale_by_zoom_linesearch(20))
        value_and_grad = optax.value_and_grad_from_state(loss)

        def step(carry, _):
            params, state = carry
            value, grad = value_and_grad(params, state=state)
            updates, state = tx.update(
                grad, state, params, value=value, grad=grad, value_fn=loss
            )
            return (optax.apply_updates(params, updates), state), value

        _, losses = lax.scan(step, (start, tx.init(start)), length=STEPS)
        return losses

    with jax.numpy_rank_promotion("allow"):
        # Rounding grows along the path; the losses are in units of the first.
        losses = assert_same_both_ways(fit, true, start, x, tolerance=1e-3)
    assert losses[-1] < 0.05 * losses[0]
