"""Kills runs of an experiment at random moments and starts them again.

`python -m tests.stress.chaos` does that a hundred times. What each module is for:

- rounds: what is done in one round, and what a hundred of them have come to.
- hits: when a run is killed, and how.
- mishaps: what happens between two starts.
- comparison: what must be the same.
- runs: how the experiment is started, and from which source.
- job: its processes.
- data_set: what it learns from.
"""
