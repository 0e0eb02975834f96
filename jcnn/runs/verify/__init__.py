"""Whether two runs are the same, and what a run needs to be the same again."""
