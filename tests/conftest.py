"""No test touches the cache of whoever runs it; processes that a test starts inherit that."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

SLOWEST = ("test_whole_way.py",)  # a worker that takes it up last would leave the others idle


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in SLOWEST)


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGREPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
