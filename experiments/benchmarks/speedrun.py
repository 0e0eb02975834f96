"""Time a training step of `cifar10_speedrun` beside the same network in PyTorch.

Both compute 2,000 random images in parts of 500, with batch norm over each part, the
six kernels updated by Muon and the rest by SGD; augmentation is not timed. PyTorch runs
eagerly in channels last, in bfloat16 by autocast. Seconds: minimum / median.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from torch import nn

from experiments import cifar10_speedrun
from jcnn.initializers import whitening
from jcnn.runs import keep_memory
from jcnn.train import classification, create, make_step

from .peers.workload import Dtype
from .report import environment, processors, ratio, table
from .timing import interleaved

SMOOTHING = cifar10_speedrun.Config.label_smoothing
GROUPS = (24, 64), (64, 256), (256, 256)


@dataclass(frozen=True)
class Config:
    batch_size: int = 2000
    """Images per step."""
    parts: int = 4
    """Parts in which a batch is computed."""
    seconds: float = 120.0
    """Seconds for each dtype."""


def main(config: Config) -> None:
    keep_memory()
    print(environment(), end="\n\n")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (config.batch_size, 32, 32, 3)).astype(np.uint8)
    labels = rng.integers(0, 10, config.batch_size).astype(np.int32)
    rows = []
    for dtype in ("float32", "bfloat16"):
        functions: dict[str, Callable[[], object]] = {
            "jcnn": jcnn_step(images, labels, config.parts, dtype),
            "PyTorch": torch_step(images, labels, config.parts, dtype),
        }
        times = interleaved(functions, seconds=config.seconds, least=3)
        texts = [
            f"{t.minimum / 1e3:.2f} / {t.median / 1e3:.2f}" for t in times.values()
        ]
        ours, theirs = (times[name].median for name in functions)
        rows.append([dtype, *texts, ratio(theirs, ours)])
    print(table(["step", *functions, "PyTorch / jcnn"], rows))


def jcnn_step(images, labels, parts: int, dtype: Dtype) -> Callable[[], float]:
    first = cifar10_speedrun.prepare(jnp.asarray(images), None)
    layer = cifar10_speedrun.model(whitening(first), parts, "auto")

    def prepare(images, key):
        return cifar10_speedrun.prepare(images, key).astype(dtype)

    loss_fn, _ = classification(layer, prepare, label_smoothing=SMOOTHING)
    settings = cifar10_speedrun.Config(batch_size=len(labels), accumulate=parts)
    tx = cifar10_speedrun.optimizer(settings, 200)
    step = make_step(loss_fn, tx, accumulate=parts)
    state = [create(layer, tx, jax.random.key(0), first[:1])]
    batch = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}

    def run() -> float:
        state[0], metrics = step(state[0], batch)
        return float(metrics["loss"])

    return run


def torch_step(images, labels, parts: int, dtype: Dtype) -> Callable[[], float]:
    torch.set_num_threads(processors())
    torch.manual_seed(0)
    x = torch.tensor(np.asarray(cifar10_speedrun.prepare(jnp.asarray(images), None)))
    x = x.permute(0, 3, 1, 2)  # of NHWC: channels last already
    y = torch.from_numpy(labels).long()
    net = network().to(memory_format=torch.channels_last).train()  # pyright: ignore
    kernels = [p for p in net.parameters() if p.ndim == 4 and p.shape[-1] == 3]
    others = [p for p in net.parameters() if p.requires_grad and p.ndim != 4]
    sgd = torch.optim.SGD(others, 0.1, momentum=0.85, nesterov=True)
    buffers = [torch.zeros_like(p) for p in kernels]

    def run() -> float:
        net.zero_grad()
        total = 0.0
        for images, labels in zip(x.chunk(parts), y.chunk(parts), strict=True):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                logits = net(images) / 256
            loss = nn.functional.cross_entropy(
                logits.float(), labels, label_smoothing=SMOOTHING
            )
            (loss / parts).backward()
            total += loss.item() / parts
        sgd.step()
        for kernel, buffer in zip(kernels, buffers, strict=True):
            muon(kernel, kernel.grad, buffer)  # pyright: ignore
        return total

    return run


def network() -> nn.Module:
    first = nn.Conv2d(3, 24, 2)
    first.weight.requires_grad = False
    conv = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)
    layers: list[nn.Module] = [first, nn.GELU("tanh")]
    for inputs, width in GROUPS:
        layers += [conv(inputs, width), nn.MaxPool2d(2), _norm(width), nn.GELU("tanh")]
        layers += [conv(width, width), _norm(width), nn.GELU("tanh")]
    head = nn.Linear(GROUPS[-1][-1], 10, bias=False)
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), head)


def _norm(width: int) -> nn.Module:
    norm = nn.BatchNorm2d(width, eps=1e-12)
    norm.weight.requires_grad = False
    return norm


@torch.no_grad()
def muon(kernel: torch.Tensor, gradient: torch.Tensor, buffer: torch.Tensor) -> None:
    """Update a kernel as Jordan's airbench94_muon does, in three iterations."""
    buffer.mul_(0.6).add_(gradient)
    x = (gradient + 0.6 * buffer).reshape(len(kernel), -1).bfloat16()
    x = x / (x.norm() + 1e-7)
    for _ in range(3):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    kernel.mul_(len(kernel) ** 0.5 / kernel.norm())
    kernel.add_(x.reshape(kernel.shape).to(kernel.dtype), alpha=-0.24)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
