"""A plan warns about what is free and refuses what a person forbade."""

from __future__ import annotations

import json

import pytest

from longrepo.config.load import load_settings
from longrepo.errors import InputError
from longrepo.memory.plan import plan_memory


def plan(*overrides: str):  # type: ignore[no-untyped-def]
    settings = load_settings(None, ["model.name=embedded", *overrides])
    return plan_memory(settings, {1: 1024, 3: 4096}, "cpu", 4)


def test_longer_phases_need_more_and_every_part_is_in_the_total() -> None:
    content = json.loads(plan().as_json())
    short, long = content["phases"]["1"], content["phases"]["3"]
    assert short["total"] < long["total"]
    parts = ("weights", "adapter", "activations", "head", "overhead")
    assert sum(long[part] for part in parts) == long["total"]
    assert len(list(plan().lines())) == 2


def test_a_set_budget_refuses_with_the_remedy() -> None:
    small = plan("memory.budget_gb=0.5")
    assert all("more than there is" in line for line in small.lines())
    with pytest.raises(InputError, match=r"phase 1 needs about .* GiB, the budget is 0\.50 GiB .*phase1_epochs=0"):
        small.check()
    plan("memory.budget_gb=8").check()


def test_without_a_set_budget_it_only_warns() -> None:
    assert not plan().budget.limit
    plan().check()
