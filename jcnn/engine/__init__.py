"""Convolutions, pools and sums as primitives of JAX that are fast on CPUs.

In the order of reading. Convolutions: `general` (any that lax has), of `lax_arguments`
(what is asked for) and `canonical` (which problem that is); `problem` (what is to be
computed), `primitive` (how JAX sees it), `lowering` (what becomes of it), `planner`
(which algorithm computes it), `algorithm` and `algorithms/` (how). These share
`blocks`, `transposed`, `padding`, `toom` and `onednn/`, the library inside jaxlib.
`policies` is what `jax.checkpoint` keeps of them. Then `pools/`, and `sums`. All of
them: `declaration` (of a primitive), `eager` (outside `jax.jit`), `sharding` (several
devices), `xla_faults` (what XLA gets wrong).

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
