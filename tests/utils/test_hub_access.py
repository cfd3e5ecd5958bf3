"""A model that the hub doesn't give is one line, soon, and is asked for once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.engines.model_shape import read_config
from longrepo.errors import InputError
from longrepo.utils import hub_access
from longrepo.utils.hub_access import check_on_hub


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> list[str]:
    """The names that the hub is asked for; it has none, and nobody is logged in."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    hub_access.ask_hub.cache_clear()
    names: list[str] = []
    answers(monkeypatch, errors.RepositoryNotFoundError, names)
    return names


def answers(monkeypatch: pytest.MonkeyPatch, answer: Any, names: list[str] | None = None) -> None:
    def model_info(_: Any, name: str, **__: Any) -> Any:
        if names is not None:
            names.append(name)
        if isinstance(answer, type):
            raise answer.__new__(answer)
        return answer

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)


@pytest.mark.parametrize("load", [read_config, load_tokenizer])
def test_a_name_that_the_hub_does_not_have(load: Any, asked: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"^model owner/nothere: the hub doesn't give it .*private; connect"
        ) as found:
            load("owner/nothere")
        assert "\n" not in str(found.value)
    assert asked == ["owner/nothere"]


def test_a_gated_name_says_how_to_get_in(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, SimpleNamespace(gated="manual"))
    said = r"^model owner/gated: it is gated; accept its terms at https://huggingface\.co/owner/gated and log in"
    with pytest.raises(InputError, match=said):
        read_config("owner/gated")
    answers(monkeypatch, errors.GatedRepoError)
    hub_access.ask_hub.cache_clear()
    with pytest.raises(InputError, match=said):
        check_on_hub("owner/gated")


def test_a_model_that_the_hub_gives_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, SimpleNamespace(gated=False))
    check_on_hub("owner/open")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "a token")
    answers(monkeypatch, SimpleNamespace(gated="auto"))
    check_on_hub("owner/mine")


def test_a_folder_is_never_asked_for(asked: list[str]) -> None:
    check_on_hub("embedded")
    assert not asked
