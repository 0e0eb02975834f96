"""The tutorial runs from top to bottom, and its claims hold: its cells assert them.

`python -m tests.test_tutorial` saves it with the outputs.
"""

from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

_ROOT = Path(__file__).parents[1]
_FILE = _ROOT / "docs" / "tutorial.ipynb"


class _Client(nbclient.NotebookClient):
    """Notes each message of the kernel: outputs that were changed show the last."""

    def process_message(self, msg, cell, cell_index):
        self.messages.append((cell_index, msg["msg_type"], msg["content"]))
        return super().process_message(msg, cell, cell_index)


def _execute():
    client = _Client(
        nbformat.read(_FILE, as_version=4),
        timeout=180,  # of a cell, in seconds: it hangs
        kernel_name="python3",
        resources={"metadata": {"path": str(_ROOT)}},
        coalesce_streams=True,
        record_timing=False,
    )
    client.messages = []
    client.execute()
    return client


@pytest.fixture(scope="module")
def executed():
    return _execute()


def _outputs(notebook):
    return [out for cell in notebook.cells for out in cell.get("outputs", [])]


def test_it_runs_without_warnings_and_draws(executed):
    outputs = _outputs(executed.nb)
    assert not [out for out in outputs if out.get("name") == "stderr"]
    pictures = [out for out in outputs if "image/png" in out.get("data", {})]
    assert len(pictures) >= 10


def test_training_shows_a_moving_bar_and_leaves_a_line_for_each_epoch(executed):
    cells = executed.nb.cells
    (number,) = (i for i, cell in enumerate(cells) if "= fit(" in cell.source)
    printed, bar = cells[number].outputs
    assert (bar.output_type, bar.data) == ("display_data", {})
    *table, done = printed.text.splitlines()
    table, epochs = table[:-20], table[-20:]
    assert table[1].split()[:2] == ["layer", "output"]
    assert len(table) == 12 and table[-1].startswith("total")
    found = [line.split()[:2] for line in epochs]
    assert found == [["epoch", f"{n}/20"] for n in range(1, 21)]
    assert done.startswith("done: test accuracy 9")
    moves = [
        content["data"].get("text/plain", "")
        for index, kind, content in executed.messages
        if index == number and kind == "update_display_data"
    ]
    first, *others, last, nothing = moves
    assert "compiling" in first and "epoch 20/20" in last and "left" in last
    assert len(others) >= 19 and not nothing


def test_the_file_has_its_outputs_and_is_small():
    notebook = nbformat.read(_FILE, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in cells]
    assert counts == [*range(1, len(cells) + 1)]
    kinds = {out.output_type for out in _outputs(notebook)}
    assert kinds == {"stream", "display_data", "execute_result"}
    assert _FILE.stat().st_size < 500_000


if __name__ == "__main__":
    nbformat.write(_execute().nb, _FILE)
