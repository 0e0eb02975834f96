"""Many runs of an experiment: seeds times a grid of options, compared in a table."""
