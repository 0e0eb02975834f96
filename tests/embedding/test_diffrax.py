"""Diffrax: an equation whose right side has convolutions, and its gradients."""

import jax
import jax.numpy as jnp
import pytest

from .small import assert_same_both_ways

diffrax = pytest.importorskip("diffrax")


@pytest.mark.parametrize("adjoint", ("RecursiveCheckpointAdjoint", "BacksolveAdjoint"))
def test_solution_and_gradients_are_laxs(adjoint, rng):
    kernels = [
        jnp.asarray(rng.normal(size=shape) / 5, "float32")
        for shape in ((3, 3, 2, 4), (1, 1, 4, 2))
    ]
    start = jnp.asarray(rng.normal(size=(2, 5, 6, 2)), "float32")

    def run(convolve, kernels, start):
        def velocity(t, y, kernels):
            first, second = kernels
            return convolve(jnp.tanh(convolve(y, first)), second)

        def end(kernels, start):
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(velocity),
                diffrax.Tsit5(),
                t0=0.0,
                t1=1.0,
                dt0=0.25,
                y0=start,
                args=kernels,
                adjoint=getattr(diffrax, adjoint)(),
            )
            return solution.ys[-1]

        def loss(kernels, start):
            return jnp.sum(jnp.sin(end(kernels, start)))

        return end(kernels, start), jax.grad(loss, (0, 1))(kernels, start)

    with jax.numpy_rank_promotion("allow"):
        assert_same_both_ways(run, kernels, start)
