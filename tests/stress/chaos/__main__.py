"""Kills runs of an experiment at random moments and starts them again.

Each round is a run that is killed one to three times, wherever that hurts most. In
between files are damaged, cannot be read, or are moved, and starts with another model
or other source are tried; it must end with the bytes of one left alone.
"""

import sys

import tyro

from .rounds import Config, main

if __name__ == "__main__":
    program = "python -m tests.stress.chaos"
    sys.exit(main(tyro.cli(Config, prog=program, description=__doc__)))
