"""What was measured to be fastest, as a value that the argument `impl` takes."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import jax.numpy as jnp

from .planner import ALGORITHMS
from .problem import Problem, precisions


class Choices(Mapping[Problem, str]):
    """A frozen mapping from problems to names of algorithms; it can be hashed.

    A key is one convolution: who asks for it (`impl`) and for how many models at once
    does not count. What has no entry is left to the planner's rules.

    Raises:
      ValueError: if a name is no algorithm's.
    """

    def __init__(
        self, names: Mapping[Problem, str] | Iterable[tuple[Problem, str]] = ()
    ):
        self._names = {key_of(problem): name for problem, name in dict(names).items()}
        for name in self._names.values():
            if name not in ALGORITHMS:
                known = ", ".join(ALGORITHMS)
                raise ValueError(f"an algorithm must be one of {known}, got {name!r}")
        # Every trace hashes its problems, and each holds all choices.
        self._hash = hash(frozenset(self._names.items()))

    def __getitem__(self, problem: Problem) -> str:
        return self._names[key_of(problem)]

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choices) and self._names == other._names

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:  # it stands in every convolution of a printed jaxpr
        return f"<Choices of {len(self)} convolutions>"

    def __reduce__(self):  # hashes of strings hold in one process only
        return Choices, (self._names,)


Impl = str | Choices  # what the argument `impl` of convolutions may be


def key_of(problem: Problem) -> Problem:
    """One convolution, whoever asks for it, in one way to write it."""
    return replace(
        problem,
        dtype=jnp.dtype(problem.dtype),
        output_dtype=jnp.dtype(problem.output_dtype),
        precision=precisions(problem.precision),
        impl="auto",
        models=None,
    )
