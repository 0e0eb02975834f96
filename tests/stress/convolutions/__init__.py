"""Random convolutions, and whether every algorithm gives what the definition says.

Reading order: `ways` (how a convolution is computed), `drawing` (which convolutions),
`definition` (what they must give), `models` (the same of several models at once),
`bounds` (how large an error may be), `checking` (one example, from its numbers to its
errors), `__main__` (the script).
"""
