"""What must be the same."""

from pathlib import Path

from jcnn.runs import read_metrics


def differences(whole: Path, run_dir: Path) -> list[str]:
    """Names of the files of two runs that differ, measured times apart."""
    names = ("certificate.jsonl", "params.safetensors")
    found = [n for n in names if (whole / n).read_bytes() != _content(run_dir / n)]
    if _timeless(whole) != _timeless(run_dir):
        found.append("metrics.jsonl")
    return found


def contents(run_dir: Path) -> dict[str, bytes | None]:
    """All that a run folder holds: names to bytes, None for a folder.

    But for `.lock`, which has the number of the process that was there last.
    """
    return {
        path.relative_to(run_dir).as_posix(): _content(path)
        for path in run_dir.rglob("*")
        if path.name != ".lock"
    }


def changes(
    before: dict[str, bytes | None], after: dict[str, bytes | None]
) -> list[str]:
    """Names that came, went or have other bytes between two calls of `contents`.

    >>> changes({"a": b"1", "b": None}, {"a": b"2", "c": None})
    ['a', 'b', 'c']
    """
    nothing = object()
    names = sorted(before | after)
    return [n for n in names if before.get(n, nothing) != after.get(n, nothing)]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _timeless(run_dir: Path) -> list[dict[str, object]]:
    times = ("images_per_second", "seconds")
    return [
        {name: value for name, value in line.items() if name not in times}
        for line in read_metrics(run_dir)
    ]
