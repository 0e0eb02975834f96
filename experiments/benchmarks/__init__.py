"""Measurements that anyone can repeat: `python -m experiments.benchmarks.NAME`.

- conv: times of convolutions and their gradients, beside lax's and PyTorch's.
- step: times of whole train steps, beside other frameworks'.
- accelerate: train steps of Flax, Equinox, Haiku and Keras, without and with
  `accelerate()`, and gradients per example.
- pool: times of pools and their gradients.
- ensemble: times of several models at once.
- memory: peak memory of convolutions, beside lax's.
- imports: times of `import jcnn`.

`uv run --group benchmarks --with torch` installs the other frameworks; those that are
not installed are skipped.
"""
