"""Every test of jcnn.data has an empty cache and an empty JCNN_DATA_DIR of its own."""

import pytest


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("JCNN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"
