import sys
import zipfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for data_builders: importlib mode adds no folder

from data_builders import code_documents

from scaling.config import SourceConfig, TaskConfig
from scaling.data import timeline as timeline_module


@pytest.fixture
def many_lanes(monkeypatch):
    """Lets corpora of a few thousand tokens have many lanes."""
    monkeypatch.setattr(timeline_module, "MIN_LANE_TOKENS", 200)


@pytest.fixture
def corpus(tmp_path):
    """A zip of 60 different programs, and a task over it."""
    path = tmp_path / "corpus.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, text in enumerate(code_documents(60)):
            archive.writestr(f"code/{number:02d}.txt", text)
    return TaskConfig("small", SourceConfig("files", "code", str(path)), record_tokens=100, heldout_fraction=0.1)
