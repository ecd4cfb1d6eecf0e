"""Small sets of files and the shards made of them, as fixtures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_sets import make_card, make_files

from rayseg.data import shards
from rayseg.schema import to_dict


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A root of six train and three val pairs."""
    return make_files(tmp_path / "raw")


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 300 train pairs (two shards) and 20 val pairs; read only."""
    base = tmp_path_factory.mktemp("pristine")
    shards.write(make_card(), make_files(base / "raw", 300, 20), base / "shards", workers=2)
    return base / "shards"


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the shards to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "shards"))


@pytest.fixture
def changed_card() -> Callable[..., dict[str, object]]:
    """Plain types of a good card with some keys changed."""
    return lambda **changes: to_dict(make_card()) | changes
