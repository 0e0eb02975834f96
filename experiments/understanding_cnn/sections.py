"""The words of the page, in the order of the article."""

from functools import partial

import numpy as np

from . import figures
from .canvas import Section


def make_sections(digit: np.ndarray, label: int, digits: np.ndarray) -> list[Section]:
    """What stands on the page.

    Args:
        digit: The digit that is shown, `[8, 8]` float32, whole numbers from 0 to 16.
        label: Which digit that is.
        digits: Digits to take a mean over, `[N, 8, 8]` float32.
    """
    return [
        Section(
            "Symbols",
            "f is the side of a filter, n_filters the number of filters, p the rings "
            "of zeros put round the image, s the step from one window to the next. "
            "Each filter makes one map.",
            "conv(x, kernel, strides=s, padding=p)\n"
            "# kernel [f, f, channels, n_filters]",
            11.0,
            partial(figures.draw_symbols, digit=digit),
        ),
        Section(
            "Parameters are shared",
            "A filter is the same at all places of the image. From 32×32×3 to "
            "30×30×10, ten filters of 3×3 have 280 parameters; the article counts "
            "100 and leaves out the three channels. A dense layer of these sizes has "
            "about 100,000 times as many weights.",
            'summarize(Conv(10, 3, padding="VALID"), x)',
            9.6,
            figures.draw_parameters,
        ),
        Section(
            "Connections are sparse",
            "The derivative of one output by every input is zero outside of a window "
            "of f×f. The derivatives of all outputs, a row each, make a matrix in "
            "which 324 of 2,304 numbers are not zero, and each row has the same nine. "
            "In that of a dense layer all may differ from zero, and from each other.",
            'valid = partial(conv, padding="VALID")\njax.jacobian(valid)(x, kernel)',
            9.8,
            partial(figures.draw_sparsity, digit=digit),
        ),
        Section(
            "Convolution",
            "Window times filter, number by number, and the products summed: that is "
            "one value of the map. This filter answers to vertical edges: red where "
            "ink begins, going right, and blue where it ends.",
            'conv(x, kernel, padding="VALID")',
            9.0,
            partial(figures.draw_convolution, digit=digit),
        ),
        Section(
            "Valid and same",
            "Valid: no padding, so the map is smaller. Same: padded so that the map "
            "has n places at s = 1, and ⌈n/s⌉ at any s. PyTorch pads p = (f−1)/2 on "
            "both sides. That gives as many places, but where the table is orange not "
            "the same ones: the windows lie elsewhere, and so the sums differ.",
            'conv(x, kernel, strides=s, padding="SAME")\n'
            "conv(x, kernel, strides=s, padding=p)",
            11.2,
            figures.draw_valid_and_same,
        ),
        Section(
            "Padding",
            "A 3×3 image padded by 2 is 7×7, with zeros outside. This is for the "
            "border: without padding, a corner of a 5×5 image enters one window of "
            "3×3 only, the middle nine. Padded by 1, a corner enters four.",
            "conv(x, one_by_one, padding=2)\njax.grad(sum_of_windows)(x)",
            9.0,
            figures.draw_padding,
        ),
        Section(
            "Stride",
            "The window goes on by s columns (orange), and at the end of a line by s "
            "rows (blue). Dots are the middles of all windows, one for each value of "
            "the map: ⌊(n+2p−f)/s⌋+1 in each direction.",
            "conv(x, kernel, strides=s)",
            8.0,
            figures.draw_stride,
        ),
        Section(
            "ReLU",
            "max(z, 0): what is negative becomes zero. Above 0 its derivative is 1, "
            "so a gradient passes any number of them unchanged, while each sigmoid "
            "leaves a quarter of it at most. Below 0 nothing passes.",
            "jax.nn.relu(z)\njax.grad(jax.nn.relu)(z)",
            8.8,
            partial(figures.draw_relu, digit=digit),
        ),
        Section(
            "Max pool",
            "The greatest number of each window of 2×2: a quarter of the values is "
            "left, and there is nothing to learn. To the right, the same for what "
            "ReLU has left of the digit’s map.",
            "max_pool(x, 2)",
            7.2,
            partial(figures.draw_max_pool, digit=digit),
        ),
        Section(
            "Flatten",
            "All maps as one vector, place by place (row, column), and at each place "
            "one number of each map. There are no parameters. The dense layer behind "
            "it has a weight for each line, 18·10, and a bias for each class.",
            "dense(flatten(x), kernel, bias)",
            8.6,
            partial(figures.draw_flatten, digit=digit),
        ),
        Section(
            "A feature anywhere",
            "The filter answers wherever the edge is. If the image is moved by three "
            "columns, so is its map, number by number: equivariance, which is exact at "
            "s = 1 and away from the border.",
            "conv(jnp.roll(x, 3, axis=2), kernel)",
            7.2,
            partial(figures.draw_shift, digit=digit),
        ),
        Section(
            "Small shifts hidden",
            "An edge moves by one column, and so does the answer in the map. The "
            "pooled map stays the same if the answer stays within its window, which "
            "it does every second time: some invariance. For real digits that is a "
            "matter of degree, and complete only for the maximum of the whole map.",
            "max_pool(conv(x, kernel), 2)",
            10.4,
            partial(figures.draw_invariance, digits=digits),
        ),
        Section(
            "Fields of use",
            "Which digit is it? Which pixels are the digit? Where is it? The features "
            "are the same, the last layer gives an answer of another shape. (These "
            "answers are taken from label and ink; nothing is trained here.)",
            "Dense(classes)\nConvTranspose(classes, 2, strides=2)\n"
            "Conv(box + score + classes, 3)",
            8.8,
            partial(figures.draw_fields, digit=digit, label=label),
        ),
    ]
