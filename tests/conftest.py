"""Fixtures that several test modules share."""

import os
from pathlib import Path

import pytest

_BESIDE_THE_REPOSITORY = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_home() -> Path:
    """Folder with the real data sets; tests that need it are skipped where there is none."""
    if given := os.environ.get("SKLLM4ES_DATA"):
        return Path(given).expanduser()
    if _BESIDE_THE_REPOSITORY.is_dir():
        return _BESIDE_THE_REPOSITORY
    pytest.skip(f"needs real data: set SKLLM4ES_DATA to its folder ({_BESIDE_THE_REPOSITORY} does not exist)")
