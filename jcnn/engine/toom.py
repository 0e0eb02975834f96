"""Matrices of the minimal algorithms F(m, k): m outputs of a k-tap filter.

The outputs of a filter are coefficients of a product of polynomials; Toom and Cook get
them from products of values at m + k - 1 points, one of them at infinity.
Winograd, "Arithmetic Complexity of Computations" (1980); Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks" (2015), whose matrices these are.
"""

from fractions import Fraction
from functools import lru_cache
from math import lcm, prod
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
    """Compute F(m, k) in exact fractions, rounded at the end.

    >>> transforms(2, 2).output
    ((1.0, 1.0, 0.0), (0.0, 1.0, 1.0))
    """
    points = _POINTS[: m + k - 2]
    kernel, output = _values(points, k), list(zip(*_values(points, m)))
    inputs = []  # coefficients of Lagrange's polynomials, the last one for infinity
    for p in points:
        others = [q for q in points if q != p]
        scale = prod(p - q for q in others)
        inputs.append([c / scale for c in _coefficients(others)] + [Fraction(0)])
    inputs.append(_coefficients(points))
    for i, row in enumerate(inputs):  # whole numbers here, their divisors in the kernel
        scale = min(lcm(*(v.denominator for v in row)), 24)
        inputs[i] = [v * scale for v in row]
        kernel[i] = [v / scale for v in kernel[i]]
    return Transforms(*map(_rounded, (inputs, kernel, output)))


def _values(points: list[Fraction], n: int) -> list[list[Fraction]]:
    """Return a polynomial's values at the points, by its n coefficients.

    That at infinity, the last one, is its highest coefficient.
    """
    infinity = [Fraction(int(j == n - 1)) for j in range(n)]
    return [*([p**j for j in range(n)] for p in points), infinity]


def _coefficients(roots: list[Fraction]) -> list[Fraction]:
    """Return the coefficients, lowest first, of the polynomial with these roots."""
    result = [Fraction(1)]
    for root in roots:
        result = [a - root * b for a, b in zip([0, *result], [*result, 0])]
    return result


def _rounded(matrix) -> Matrix:
    return tuple(tuple(float(v) for v in row) for row in matrix)
