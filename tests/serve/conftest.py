"""One run for all that is tried on it."""

from __future__ import annotations

import pytest
from serve.tried import Tried, tried


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Tried:
    return tried(tmp_path_factory.mktemp("tried"))
