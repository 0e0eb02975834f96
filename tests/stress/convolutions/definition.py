"""What a convolution and its gradients must give: in NumPy and PyTorch, in float64.

Both see groups of either kind as an axis of their own: images [N, groups, channels of a
group, *spatial] and kernels [groups, features of a group, channels of a group, *taps].
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from jcnn.engine.lax_arguments import Convolution


class Results(NamedTuple):
    """A convolution f, and the gradients of <f, g> to what it is of."""

    f: np.ndarray
    gx: np.ndarray
    gw: np.ndarray


def defined(operands: Sequence[np.ndarray], convolution: Convolution) -> Results:
    """Of lhs, rhs and g: output o gets the product of tap k with pixel i where

        o * stride + k * rhs_dilation = i * lhs_dilation + low.

    Complex numbers are not conjugated.
    """
    return _in_groups(_by_links, operands, convolution)


def by_pytorch(operands: Sequence[np.ndarray], convolution: Convolution) -> Results:
    """By PyTorch, padding and dilation of the input by operations of their own."""
    return _in_groups(_by_pytorch, operands, convolution)


def _in_groups(compute: Callable, operands, c: Convolution) -> Results:
    lhs_spec, rhs_spec, out_spec = c.dimension_numbers
    dtype = np.complex128 if np.iscomplexobj(operands[0]) else np.float64
    x, w, y = (
        np.asarray(a).astype(dtype).transpose(spec)
        for a, spec in zip(operands, (lhs_spec, rhs_spec, out_spec))
    )
    groups = c.feature_group_count * c.batch_group_count
    by_batch = c.batch_group_count > 1

    def grouped(a):
        if by_batch:  # the batch is [groups, N]
            return a.reshape(groups, -1, *a.shape[1:]).swapaxes(0, 1)
        return a.reshape(a.shape[0], groups, -1, *a.shape[2:])

    f, gx, gw = compute(
        grouped(x),
        w.reshape(groups, -1, *w.shape[1:]),
        y.reshape(y.shape[0], groups, -1, *y.shape[2:]),
        c,
    )
    if by_batch:
        gx = gx.swapaxes(0, 1)
    return Results(
        f.reshape(y.shape).transpose(np.argsort(out_spec)),
        gx.reshape(x.shape).transpose(np.argsort(lhs_spec)),
        gw.reshape(w.shape).transpose(np.argsort(rhs_spec)),
    )


def _by_links(x, w, g, c: Convolution):
    f, gx, gw = np.zeros_like(g), np.zeros_like(x), np.zeros_like(w)
    for tap, outputs, pixels in _links(x.shape[3:], w.shape[3:], g.shape[3:], c):
        kernel = w[(..., *tap)]
        seen, above = x[pixels], g[outputs]
        spatial = seen.shape[3:]
        seen, above = (a.reshape(*a.shape[:3], -1) for a in (seen, above))
        products = np.einsum("ngcp,gfc->ngfp", seen, kernel, optimize=True)
        f[outputs] += products.reshape(*products.shape[:3], *spatial)
        products = np.einsum("ngfp,gfc->ngcp", above, kernel, optimize=True)
        gx[pixels] += products.reshape(*products.shape[:3], *spatial)
        gw[(..., *tap)] = np.einsum("ngcp,ngfp->gfc", seen, above, optimize=True)
    return f, gx, gw


def _links(size, taps, outputs, c: Convolution) -> Iterator[tuple]:
    """For each tap the outputs that it contributes to, and the pixels seen by them."""
    axes = []
    for n, k, o, stride, (low, _), step, dilation in zip(
        size,
        taps,
        outputs,
        c.window_strides,
        c.padding,
        c.lhs_dilation,
        c.rhs_dilation,
    ):
        axis = []
        for tap in range(k):
            pixel, rest = np.divmod(np.arange(o) * stride + tap * dilation - low, step)
            met = (rest == 0) & (pixel >= 0) & (pixel < n)
            axis.append((tap, np.flatnonzero(met), pixel[met]))
        axes.append(axis)
    every = [slice(None)] * 3
    for choice in product(*axes):
        tap, output, pixel = zip(*choice)
        yield tap, (*every, *np.ix_(*output)), (*every, *np.ix_(*pixel))


def _by_pytorch(x, w, g, c: Convolution):
    import torch

    def leaf(a, *channels):  # conjugated, since PyTorch's gradients are
        a = np.ascontiguousarray(a.reshape(*channels, *a.shape[3:]).conj())
        return torch.tensor(a, requires_grad=True)

    images, groups, inputs, *size = x.shape
    x_t, w_t = leaf(x, images, groups * inputs), leaf(w, -1, inputs)
    size = [(n - 1) * e + 1 for n, e in zip(size, c.lhs_dilation)]
    dilated = torch.zeros(images, groups * inputs, *size, dtype=x_t.dtype)
    dilated[(..., *(slice(None, None, e) for e in c.lhs_dilation))] = x_t
    more = [max(side, 0) for pair in reversed(c.padding) for side in pair]
    padded = torch.nn.functional.pad(dilated, more)
    cropped = [slice(max(-a, 0), b if b < 0 else None) for a, b in c.padding]
    y = getattr(torch.nn.functional, f"conv{len(size)}d")(
        padded[(..., *cropped)],
        w_t,
        stride=c.window_strides,
        dilation=c.rhs_dilation,
        groups=groups,
    )
    y.backward(torch.tensor(np.ascontiguousarray(g.reshape(tuple(y.shape)))))
    assert x_t.grad is not None and w_t.grad is not None
    return (
        y.detach().numpy().conj(),
        x_t.grad.numpy().reshape(x.shape),
        w_t.grad.numpy(),
    )
