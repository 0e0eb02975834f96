"""Convolution as an engine: a problem, a plan, an algorithm.

Reading order: `problem` (what is to be computed), `primitive` (how JAX sees it),
`planner` (who computes it), `algorithms/` (the ways to compute it).
"""
