"""The library stays small enough to read: lines of each part and of any file."""

from pathlib import Path

_JCNN = Path(__file__).parents[1] / "jcnn"
_APART = {"__main__.py", "_files.py", "experiment.py"}

# The aims are 3,300, 2,600, 550, 2,600, below 9,000, and 340.
BUDGETS = {
    "library": 6_196,
    "engine": 4_269,
    "data": 1_126,
    "runs": 8_204,
    "all": 22_162,
    "a file": 340,
}


def test_each_part_keeps_to_its_budget():
    lines = {p: p.read_bytes().count(b"\n") for p in _JCNN.rglob("*.py")}
    found = {
        part: sum(lines[path] for path in lines if _JCNN / part in path.parents)
        for part in ("train", "inspect", "engine", "data", "runs")
    }
    top = (n for p, n in lines.items() if p.parent == _JCNN and p.name not in _APART)
    found["library"] = sum(top) + found.pop("train") + found.pop("inspect")
    found |= {"all": sum(lines.values()), "a file": max(lines.values())}
    assert {p: n for p, n in found.items() if n > BUDGETS[p]} == {}
