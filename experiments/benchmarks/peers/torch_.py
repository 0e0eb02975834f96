"""PyTorch, eager, channels last.

It pads both sides equally, where "SAME" adds an odd pixel at the end: with strides of 2
the windows are one pixel off, but their number and the work are the same.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy, relu

from experiments.benchmarks.report import processors

from . import workload
from .workload import Dtype, Model, Step


def make(
    model: Model,
    examples: int | None = None,
    dtype: Dtype = "float32",
    wrap: Callable[[Callable], Callable] = lambda function: function,
) -> Step:
    torch.set_num_threads(processors())
    torch.manual_seed(0)
    images, labels = map(torch.from_numpy, workload.batch(model, examples))
    # NHWC with permuted axes is channels last already.
    images, labels = images.permute(0, 3, 1, 2), labels.long()
    build = {"mnist": mnist, "vgg": vgg, "resnet20": resnet20}[model]
    net = build().to(memory_format=torch.channels_last).train()  # pyright: ignore
    optimizer = torch.optim.Adam(net.parameters(), workload.LEARNING_RATE)

    @wrap
    def loss_fn(images, labels):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = net(images)
        return cross_entropy(logits.float(), labels)

    def run() -> float:
        optimizer.zero_grad()
        loss = loss_fn(images, labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Step(run, sum(p.numel() for p in net.parameters()))


def mnist() -> nn.Module:
    first, second = workload.MNIST_WIDTHS
    return nn.Sequential(
        nn.Conv2d(1, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(7 * 7 * second, workload.MNIST_HIDDEN),
        nn.ReLU(),
        nn.Linear(workload.MNIST_HIDDEN, workload.CLASSES),
    )


def vgg() -> nn.Module:
    layers, inputs = [], 3
    for width in workload.VGG_WIDTHS:
        layers += [_conv_norm(inputs, width), nn.ReLU()]
        layers += [_conv_norm(width, width), nn.ReLU(), nn.MaxPool2d(2)]
        inputs = width
    return nn.Sequential(*layers, *_head(inputs))


def resnet20() -> nn.Module:
    inputs = workload.RESNET_STAGES[0][0]
    layers = [_conv_norm(3, inputs), nn.ReLU()]
    for width, strides in workload.RESNET_BLOCKS:
        layers.append(Block(inputs, width, strides))
        inputs = width
    return nn.Sequential(*layers, *_head(inputs))


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, strides: int):
        super().__init__()
        self.first = _conv_norm(inputs, width, strides=strides)
        self.second = _conv_norm(width, width)
        self.shortcut = (
            nn.Identity() if inputs == width else _conv_norm(inputs, width, 1, strides)
        )

    def forward(self, x):
        return relu(self.second(relu(self.first(x))) + self.shortcut(x))


def _conv_norm(inputs: int, width: int, size: int = 3, strides: int = 1) -> nn.Module:
    conv = nn.Conv2d(inputs, width, size, strides, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width))


def _head(inputs: int):
    mean = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return *mean, nn.Linear(inputs, workload.CLASSES)
