"""Which algorithm computes a problem, and why: from shapes and dtype alone."""

from types import ModuleType
from typing import NamedTuple

from .algorithms import im2col, lax
from .problem import Problem

ALGORITHMS = {"lax": lax, "im2col": im2col}


class Plan(NamedTuple):
    algorithm: ModuleType
    reason: str


def plan(problem: Problem) -> Plan:
    """The algorithm asked for by name, else lax's."""
    if problem.impl != "auto":
        return Plan(ALGORITHMS[problem.impl], "asked for by name")
    return Plan(lax, "default")
