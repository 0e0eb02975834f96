"""Training of several members of a sweep by one program: `jax.vmap` over their states.

Each member has the steps of a run of its own: its seed's initial weights, order and
random numbers, its own learning rate. Results are those of single runs but for
rounding, since XLA sums in another order. A member whose loss is not finite goes on
without harm to the others, and has no result.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...compilation import Options, jit
from ...inspect.summary import summarize
from ...train import TrainState, create, make_evaluate, make_step
from ..evaluation import evaluated
from ..interrupt import catch_interrupt
from ..progress import open_console, progress_bar, say
from ..recipe import Recipe, arrays, network_inputs
from ..stepping import count_steps, sizes_left, split_epoch, suggest_steps_per_call
from ..store.digests import take_snapshot
from ..store.journal import Journal, read_lines
from ..store.record import Progress, Record
from ..store.weights import write_weights
from ..training import try_network
from ..verify.certificate import data_line
from .members import replace, varied


def fit_together(
    configs: Sequence[Any],
    recipes: Sequence[Recipe],
    make: Callable[[Any], Recipe],
    run_dir: Path,
    folders: Sequence[Path],
    *,
    compiler_options: Options | None = None,
) -> int | None:
    """Train all members, and write metrics and weights into their folders.

    Args:
        configs: Options of the members, which differ in seed and numbers only.
        recipes: The checked recipe of each.
        make: Function from options, whose numbers may be traced, to the checked recipe.
        run_dir: Folder of what belongs to all: metrics, certificate, checkpoints. If
            it has a checkpoint, training resumes.
        folders: Of the members.
        compiler_options: As for `jcnn.train.make_step`.

    Returns:
        The number of the signal that stopped the training, None if it has ended.
    """
    began, console, config = time.monotonic(), open_console(), configs[0]
    recipe, values = recipes[0], {k: jnp.array(v) for k, v in varied(configs).items()}
    total = count_steps(
        len(recipe.train.label), batch_size=config.batch_size, epochs=config.epochs
    )
    per_epoch = total // config.epochs
    total = min(total, config.max_steps or total)
    data = jax.device_put(arrays(recipe.train))
    first = _first_states(configs, recipes)
    work = step_work(recipe, config.batch_size)
    limit = suggest_steps_per_call(work * len(configs))
    sizes = split_epoch(per_epoch, limit)
    certificate = data_line(recipe.train, recipe.test, recipe.validation)
    with (
        Record(run_dir, certificate, keep=config.keep_checkpoints) as record,
        catch_interrupt() as interrupts,
        progress_bar(console, total) as show,
    ):
        state, progress = record.restore(first)
        began, done = began - progress.seconds, progress.step
        left = list(sizes_left(sizes, done=done, total=total))
        calls = {
            size: _steps(make, config, values, size, compiler_options)
            .lower(state, data)
            .compile()
            for size in set(left)
        }
        for size in left:
            state, by_step = calls[size](state, data)
            done += size
            means = jax.tree.map(lambda v: v.mean(0), jax.device_get(by_step))
            line = {"step": done, "epoch": round(done / per_epoch, 6)}
            line |= {name: mean.tolist() for name, mean in means.items()}
            record.add_metrics(line)
            text = f"epoch {math.ceil(line['epoch'])}/{config.epochs}"
            losses = ", ".join(f"{loss:.3f}" for loss in line["loss"][:8])
            show(done, text)
            stop, ends = interrupts(), done % per_epoch == 0 or done == total
            if ends:
                say(console, f"{text}  losses {losses}")
            if stop or done == total or (ends and record.due()):
                snapshot = take_snapshot(state)
                record.certify(snapshot, step=done, epoch=line["epoch"])
                seconds = time.monotonic() - began
                record.save(snapshot, Progress(done, {}, seconds), metric=math.nan)
            if stop:
                return stop
    seconds = (time.monotonic() - began) / len(configs)
    finals = [evaluated(member(state, index)) for index in range(len(configs))]
    tested = _tested(make, config, values, recipes, finals, compiler_options)
    lines = read_lines(run_dir / "metrics.jsonl")
    for index, (folder, metrics) in enumerate(zip(folders, tested, strict=True)):
        final = jax.device_get(finals[index])
        try_network(recipes[index], folder, final.params, final.model_state, console)
        _write_member(folder, index, lines, metrics, final, seconds)
    return None


def member(state: TrainState, index: int) -> TrainState:
    """Return the state of one member."""
    return jax.tree.map(lambda leaf: leaf[index], state)


def _first_states(configs: Sequence[Any], recipes: Sequence[Recipe]) -> TrainState:
    states = [
        create(
            recipe.layer,
            recipe.tx,  # pyright: ignore
            jax.random.key(config.seed),
            network_inputs(recipe),
            ema=config.ema_decay is not None,
        )
        for config, recipe in zip(configs, recipes, strict=True)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def step_work(recipe: Recipe, batch_size: int) -> int:
    """Return the known multiply-adds of a step's forward pass, of one member."""
    rows = summarize(recipe.layer, network_inputs(recipe))
    return batch_size * sum(row.multiply_adds or 0 for row in rows)


def _steps(make, config, values, num_steps: int, compiler_options: Options | None):
    """Return steps(states, data) -> (states, metrics [num_steps, members])."""

    def step(state, values, data):
        recipe = make(replace(config, values))
        batch = recipe.batch_at(state.key, state.step, data, config.batch_size)
        one = make_step(
            recipe.loss_fn,
            recipe.tx,
            not_finite="ignore",
            ema_decay=config.ema_decay,
            accumulate=config.accumulate,
        )
        return one(state, batch)

    def steps(states, data):
        def body(states, _):
            return jax.vmap(step, (0, 0, None))(states, values, data)

        return lax.scan(body, states, None, length=num_steps)

    return jit(steps, donate_argnums=0, compiler_options=compiler_options)


def _tested(make, config, values, recipes, states, compiler_options):
    """Return the test metrics of each member."""

    def example_metrics(given, model_state, batch):
        recipe = make(replace(config, given["values"]))
        return recipe.example_metrics(given["params"], model_state, batch)

    data = jax.device_put(arrays(recipes[0].test))
    evaluate = make_evaluate(
        example_metrics,
        batch_size=min(500, len(recipes[0].test.label)),
        compiler_options=compiler_options,
    )
    found = []
    for index, (recipe, state) in enumerate(zip(recipes, states, strict=True)):
        own = {name: numbers[index] for name, numbers in values.items()}
        metrics = evaluate(
            state._replace(params={"params": state.params, "values": own}), data
        )
        for name, function in recipe.split_metrics.items():
            metrics[name] = float(function(state, data))
        found.append(metrics)
    return found


def _write_member(folder, index, lines, metrics, final, seconds) -> None:
    """Write weights and metrics; the last line says that the member has ended."""
    write_weights(folder / "params.safetensors", final.params, final.model_state)
    journal = Journal(folder / "metrics.jsonl")
    journal.restore(b"")
    for line in lines:
        journal.append(
            {k: v[index] if isinstance(v, list) else v for k, v in line.items()}
        )
    last = {key: lines[-1][key] for key in ("step", "epoch")}
    last |= {f"test_{name}": value for name, value in metrics.items()}
    journal.append(last | {"interrupted": False, "seconds": round(seconds, 1)})
