"""Convolution as an engine: one problem, one plan, one algorithm.

Reading order: `problem` (what is to be computed), `general` (which problem it is that
arguments of lax describe), `primitive` (how JAX sees it), `lowering` (what becomes of
it), `planner` (who computes it), `algorithms/` (how); `policies` (what is saved).
"""

from . import lowering as lowering
from . import policies as policies
