"""What the documents refer to exists. Their examples are doctests."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_DOCUMENTS = [*_ROOT.glob("*.md"), *_ROOT.glob("docs/*.md")]


@pytest.mark.parametrize("path", _DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if not target.startswith("https://"):
            name, _, heading = target.partition("#")
            file = path.parent / name if name else path
            assert file.is_file(), target
            assert not heading or heading in _headings(file), target


def _headings(path):
    titles = re.findall("^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}


@pytest.mark.parametrize("path", _DOCUMENTS, ids=lambda path: path.name)
def test_commands_name_modules_that_exist(path):
    for name in re.findall(
        r"python -m ((?:experiments|tests|jcnn)[\w.]*\w)", path.read_text()
    ):
        assert find_spec(name) is not None, name


def test_the_readme_is_short():
    assert len((_ROOT / "README.md").read_text().splitlines()) <= 150
