"""Which of many cases run by default."""

import pytest


def few_of(cases, number):
    """Return the cases for `parametrize`, all but the first `number` marked stress."""
    cases = list(cases)
    return cases[:number] + [
        pytest.param(case, marks=pytest.mark.stress) for case in cases[number:]
    ]
