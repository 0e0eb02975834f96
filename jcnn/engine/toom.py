"""Matrices of the minimal algorithms F(m, k): m outputs of a k-tap filter.

The outputs of a filter are coefficients of a product of polynomials; Toom and Cook get
them from m + k - 1 products of values at as many points, of which one is at infinity.
Winograd, "Arithmetic Complexity of Computations" (1980); Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks" (2015), whose matrices these are.
"""

from fractions import Fraction
from functools import lru_cache
from math import lcm
from typing import NamedTuple

Matrix = tuple[tuple[float, ...], ...]

# Small points in pairs of opposite sign keep the entries, and so the errors, small.
_POINTS = [Fraction(n, d) for n, d in ((0, 1), (1, 1), (-1, 1), (2, 1), (-2, 1))]
_POINTS += [Fraction(1, 2), Fraction(-1, 2)]


class Transforms(NamedTuple):
    """y = output @ ((kernel @ g) * (input @ d)) for k taps g and m + k - 1 inputs d."""

    input: Matrix  # [m + k - 1, m + k - 1]
    kernel: Matrix  # [m + k - 1, k]
    output: Matrix  # [m, m + k - 1]


@lru_cache
def transforms(m: int, k: int) -> Transforms:
    """F(m, k) in exact fractions, rounded at the end.

    >>> transforms(2, 2).output
    ((1.0, 1.0, 0.0), (0.0, 1.0, 1.0))
    """
    n = m + k - 1
    points = _POINTS[: n - 1]
    powers = [[p**j for j in range(n)] for p in points] + [_infinity(n)]
    kernel = [[p**j for j in range(k)] for p in points] + [_infinity(k)]
    output = [[p**j for p in points] + [_infinity(m)[j]] for j in range(m)]
    inputs = [list(row) for row in zip(*_inverse(powers))]
    for i in range(n):  # what is taken from the kernel's row makes the input's whole
        scale = min(lcm(*(v.denominator for v in inputs[i])), 24)
        inputs[i] = [v * scale for v in inputs[i]]
        kernel[i] = [v / scale for v in kernel[i]]
    return Transforms(_rounded(inputs), _rounded(kernel), _rounded(output))


def _infinity(n: int) -> list[Fraction]:
    """The value at infinity of a polynomial: its highest coefficient."""
    return [Fraction(int(j == n - 1)) for j in range(n)]


def _inverse(matrix: list[list[Fraction]]) -> list[list[Fraction]]:
    """By elimination (Gauss and Jordan)."""
    n = len(matrix)
    rows = [
        [*row, *(Fraction(int(i == j)) for j in range(n))]
        for i, row in enumerate(matrix)
    ]
    for c in range(n):
        pivot = next(i for i in range(c, n) if rows[i][c])
        rows[c], rows[pivot] = rows[pivot], rows[c]
        rows[c] = [v / rows[c][c] for v in rows[c]]
        for i in range(n):
            if i != c:
                rows[i] = [a - rows[i][c] * b for a, b in zip(rows[i], rows[c])]
    return [row[n:] for row in rows]


def _rounded(matrix: list[list[Fraction]]) -> Matrix:
    return tuple(tuple(float(v) for v in row) for row in matrix)
