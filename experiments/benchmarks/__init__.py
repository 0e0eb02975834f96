"""Measurements that anyone can repeat: `python -m experiments.benchmarks.NAME`.

- conv: times of convolutions and their gradients, beside lax's and PyTorch's.
- step: times of whole train steps, beside other frameworks'.
- accelerate: train steps of Flax, Equinox and Keras, without and with `accelerate()`.
- ensemble: several models at once.
- memory: peak memory of convolutions, beside lax's.
- imports: what `import jcnn` takes.

Other frameworks come with `uv run --group benchmarks --with torch`, or are left out.
"""
