"""The option --profile: where the time of a run's steps goes."""

from typing import Any

import jax
import jax.numpy as jnp

from .._files import write_file
from ..inspect.profiling import count_work, record, report
from ..inspect.trace import Place
from ..train.step import gradients
from .output import reason_of
from .progress import say
from .training import Training

_LEAST_STEPS = 3


def profile_steps(run: Training, calls: dict[int, Any]) -> None:
    """Print how long the parts of a step take, and keep what was recorded.

    The steps are those of a copy of the state: nothing of the run changes, and no error
    ends it.

    Args:
        run: A run that has begun.
        calls: What `compile_steps` has returned, by the number of steps.
    """
    if not calls:
        say(run.console, "--profile: no steps are left to record")
        return
    size, folder, state = max(calls), run.run_dir / "profile", run.state

    def call() -> Any:
        nonlocal state
        state, metrics = calls[size](state, run.train)
        return state, metrics

    def loss_gradients(state, data):
        batch = run.recipe.batch_at(state.key, state.step, data, run.batch_size)
        return gradients(run.recipe.loss_fn, state, batch)

    try:
        state = jax.tree.map(jnp.copy, state)  # a call donates its state
        recorded = record(call, folder, least=-(-_LEAST_STEPS // size))
        work = count_work(jax.make_jaxpr(loss_gradients)(run.state, run.train).jaxpr)
        for part in ("batch", "finite", "optimizer"):  # scopes of `make_step`
            work.products[Place(part, "neither")] = 0
        lines = [*report(recorded, calls[size].as_text(), work, steps=size)]
        write_file(folder / "times.txt", "\n".join([*lines, ""]).encode())
    except Exception as error:  # of the profiler, of a full disk, of a lack of memory
        say(run.console, f"--profile: not measured: {reason_of(error)}")
        return
    for line in lines:
        say(run.console, line)
    say(run.console, f"the recorded steps are in {folder}")
