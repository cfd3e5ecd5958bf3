"""A small repository, prepared with the embedded model's tokenizer, and what is held out of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from evaluated import Prepared, TwoLosses, prepared
from git_helper import Made, make_repo
from small_repository import small_repository

from longrepo.evaluation.blocks import EvalData


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("evaluated")
    return prepared(small_repository(folder / "shop"), folder / "data")


@pytest.fixture(scope="session")
def young(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The same files in a single commit: files are held out, as no commit can be."""
    folder = tmp_path_factory.mktemp("young")
    old = small_repository(folder / "shop")
    files = {str(path.relative_to(old)): path.read_text() for path in old.rglob("*.*") if path.suffix in (".py", ".md")}
    return prepared(make_repo(folder / "young", [Made(dict(files), "All at once")]), folder / "data")


@pytest.fixture(scope="session")
def material(shop: Prepared) -> Iterator[EvalData]:
    with shop.opened() as (found, _):
        found.choose("test", 8, 102, 42)
        yield found


@pytest.fixture
def engine() -> TwoLosses:
    return TwoLosses()
