"""Large buffers that are kept, counted in pages that the system had to hand out."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from jcnn.runs.memory import keep_memory

if sys.argv[1] == "keep":
    assert keep_memory()
size = 96 << 20
bytes([1]) * size
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    bytes([1]) * size
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults * resource.getpagesize() / size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_what_is_kept_is_not_handed_out_anew():
    renewed = {}
    for how in ("keep", "leave"):
        command = [sys.executable, "-c", PROGRAM, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        renewed[how] = float(done.stdout)
    assert renewed["keep"] < 0.1 < 4 < renewed["leave"]
