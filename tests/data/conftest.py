"""What tests of data sets share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory of the test's own."""
    monkeypatch.setenv("ROBUST_FAIRNESS_DATA", str(tmp_path / "data"))
    return tmp_path / "data"
