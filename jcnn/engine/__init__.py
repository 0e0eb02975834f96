"""Convolutions, pools and sums as primitives of JAX that are fast on CPUs.

In the order of reading. Convolutions: `general` (any that lax has), of `lax_arguments`
(its arguments) and `canonical` (which problem it is); `problem`, `primitive` (its
derivatives and batches), `lowering`, `planner` (the choice of an algorithm),
`algorithm` and `algorithms/`. These share `blocks`, `transposed`, `padding`, `toom` and
`onednn/`, the library inside jaxlib. `policies` serves `jax.checkpoint`. Then `pools/`
and `sums`. `acceleration` and `replacements` bring them to other libraries.
All of them: `declaration` (of a primitive), `eager` (outside `jax.jit`), `sharding`
(several devices), `xla_faults` (what XLA gets wrong), `processor`, `children`.

Words:

- *x* is the input, *y* the output. A convolution has three *operations*: forward
  (fprop), input gradient (dgrad) and kernel gradient (wgrad).
- A *problem* is an operation with all sizes and settings; to *canonicalize* a
  convolution is to find which one it is.
- A *tap* is a pixel of the kernel, or of a pool's window. The *window* of a
  convolution is the kernel after dilation.
- To *dilate* is to put zeros between neighbours.
- A kernel is *transposed* if it is flipped in space and its inputs and outputs are
  exchanged, as the input gradient has it.
- *Polyphase* is a decomposition by the residues of the strides.
- A *block* is a tile of some images and some rows of the output.
- A *product* is a matrix product (GEMM), often of *patches* (im2col).
- *Models* are a batch of kernels (`jax.vmap` over weights).
"""

from . import lowering as lowering
from . import policies as policies
