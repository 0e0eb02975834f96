"""The text of the page, in the order of the article."""

from functools import partial

import numpy as np

from . import figures
from .canvas import Section


def make_sections(digit: np.ndarray, label: int, digits: np.ndarray) -> list[Section]:
    """Return the sections of the page.

    Args:
        digit: The digit to draw, `[8, 8]` float32, integers from 0 to 16.
        label: Its label.
        digits: Digits to average over, `[N, 8, 8]` float32.
    """
    return [
        Section(
            "Symbols",
            "f is the side of a filter, n_filters the number of filters, p the rings "
            "of zeros around the image, s the step from one window to the next. "
            "Each filter makes one map.",
            "conv(x, kernel, strides=s, padding=p)\n"
            "# kernel [f, f, channels, n_filters]",
            11.0,
            partial(figures.draw_symbols, digit=digit),
        ),
        Section(
            "Parameters are shared",
            "A filter has the same weights at every position. From 32×32×3 to "
            "30×30×10, ten filters of 3×3 have 280 parameters; the article counts "
            "100 and leaves out the three channels. A dense layer of these sizes has "
            "about 100,000 times as many weights.",
            'summarize(Conv(10, 3, padding="VALID"), x)',
            9.6,
            figures.draw_parameters,
        ),
        Section(
            "Connections are sparse",
            "The derivative of one output by every input is zero outside a window of "
            "f×f. In the Jacobian, one row per output, 324 of 2,304 numbers are not "
            "zero, and each row has the same nine. In the Jacobian of a dense layer "
            "every number may be nonzero and different.",
            'valid = partial(conv, padding="VALID")\njax.jacobian(valid)(x, kernel)',
            9.8,
            partial(figures.draw_sparsity, digit=digit),
        ),
        Section(
            "Convolution",
            "Multiply window and filter element by element and sum the products: that "
            "is one value of the map. This filter responds to vertical edges: red "
            "where ink begins, from left to right, and blue where it ends.",
            'conv(x, kernel, padding="VALID")',
            9.0,
            partial(figures.draw_convolution, digit=digit),
        ),
        Section(
            "Valid and same",
            "Valid: no padding, so the map is smaller. Same: padded so that the map "
            "has size n at s = 1, and ⌈n/s⌉ at any s. PyTorch pads p = (f−1)/2 on "
            "both sides. The size is the same, but where the table is orange the "
            "windows are shifted, so the sums differ.",
            'conv(x, kernel, strides=s, padding="SAME")\n'
            "conv(x, kernel, strides=s, padding=p)",
            11.2,
            figures.draw_valid_and_same,
        ),
        Section(
            "Padding",
            "A 3×3 image padded by 2 is 7×7, with zeros outside. Padding helps the "
            "border: without it, a corner of a 5×5 image is in only one window of "
            "3×3, the middle pixel in nine. Padded by 1, a corner is in four.",
            "conv(x, one_by_one, padding=2)\njax.grad(sum_of_windows)(x)",
            9.0,
            figures.draw_padding,
        ),
        Section(
            "Stride",
            "The window moves by s columns (orange), and at the end of a row by s "
            "rows (blue). Dots are the centres of all windows, one for each value of "
            "the map: ⌊(n+2p−f)/s⌋+1 in each direction.",
            "conv(x, kernel, strides=s)",
            8.0,
            figures.draw_stride,
        ),
        Section(
            "ReLU",
            "max(z, 0): negative values become zero. Above 0 its derivative is 1, so "
            "a gradient passes any number of ReLUs unchanged, while each sigmoid "
            "leaves at most a quarter of it. Below 0 the gradient is zero.",
            "jax.nn.relu(z)\njax.grad(jax.nn.relu)(z)",
            8.8,
            partial(figures.draw_relu, digit=digit),
        ),
        Section(
            "Max pool",
            "The maximum of each 2×2 window: a quarter of the values remains, and "
            "there is nothing to learn. On the right, the same for the digit’s map "
            "after ReLU.",
            "max_pool(x, 2)",
            7.2,
            partial(figures.draw_max_pool, digit=digit),
        ),
        Section(
            "Flatten",
            "All maps as one vector, position by position (row, column), and at each "
            "position one number of each map. There are no parameters. The dense "
            "layer after it has a weight for each line, 18·10, and a bias per class.",
            "dense(flatten(x), kernel, bias)",
            8.6,
            partial(figures.draw_flatten, digit=digit),
        ),
        Section(
            "A feature anywhere",
            "The filter responds wherever the edge is. If the image is shifted by "
            "three columns, so is its map, number by number: equivariance, which is "
            "exact at s = 1 and away from the border.",
            "conv(jnp.roll(x, 3, axis=2), kernel)",
            7.2,
            partial(figures.draw_shift, digit=digit),
        ),
        Section(
            "Small shifts hidden",
            "An edge moves by one column, and so does the response in the map. The "
            "pooled map stays the same if the response stays in its window, as it "
            "does every second time: some invariance. For real digits it is a matter "
            "of degree, and complete only for the maximum of the whole map.",
            "max_pool(conv(x, kernel), 2)",
            10.4,
            partial(figures.draw_invariance, digits=digits),
        ),
        Section(
            "Fields of use",
            "Which digit is it? Which pixels belong to it? Where is it? The features "
            "are the same; the last layer gives an output of another shape. (These "
            "outputs are made from label and ink; nothing is trained here.)",
            "Dense(classes)\nConvTranspose(classes, 2, strides=2)\n"
            "Conv(box + score + classes, 3)",
            8.8,
            partial(figures.draw_fields, digit=digit, label=label),
        ),
    ]
