"""The library stays small enough to read: lines of each part and of any file."""

from pathlib import Path

_JCNN = Path(__file__).parents[1] / "jcnn"
_APART = {"__main__.py", "_files.py", "experiment.py"}

# The aims are 3,300, 2,600, 550, 2,600, below 9,000, and 340.
BUDGETS = {
    "library": 8_481,
    "engine": 4_504,
    "data": 2_139,
    "runs": 9_071,
    "all": 24_658,
    "a file": 340,
}


def test_each_part_keeps_to_its_budget():
    lines = {p: p.read_bytes().count(b"\n") for p in _JCNN.rglob("*.py")}
    found = {
        part: sum(lines[path] for path in lines if _JCNN / part in path.parents)
        for part in ("engine", "data", "runs")
    }
    apart = sum(lines[_JCNN / name] for name in _APART)
    found["library"] = sum(lines.values()) - sum(found.values()) - apart
    found |= {"all": sum(lines.values()), "a file": max(lines.values())}
    assert {p: n for p, n in found.items() if n > BUDGETS[p]} == {}
