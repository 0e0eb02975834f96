"""Convolution as an engine: one problem, one plan, one algorithm.

In the order of reading: `lax_arguments` (what is asked for), `canonical` (which problem
that is), `problem` (what is to be computed), `primitive` (how JAX sees it), `lowering`
(what becomes of it), `planner` (who computes it), `algorithm` and `algorithms/` (how),
`onednn/` (the library inside jaxlib).

Words: x is the input, y the output. A convolution has three operations: forward
(fprop), input gradient (dgrad) and kernel gradient (wgrad). A kernel is *transposed* if
it is flipped in space and its inputs and outputs are exchanged, as the input gradient
has it. *Polyphase* is a decomposition by the strides; *blocks* are tiles of images and
rows; a *product* is a matrix product (GEMM); *models* are a batch of kernels.
"""

from . import lowering as lowering
from . import policies as policies
