"""The ways to compute a convolution, one file each.

Every file has the same three functions: `forward(problem, x, kernel)`,
`input_gradient(problem, kernel, y)` and `kernel_gradient(problem, x, y)`. Both operands
come in the same dtype; the result may come out in a wider one. The file ends with an
`Algorithm`, which `planner` lists in `_ALL` and, where it is fast, in `RULES`.
"""
