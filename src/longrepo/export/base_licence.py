"""Under which licence a base was published: what is made of it stays under it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "NOTICE", "LICENSE-sources.md")
_OPEN_RAIL = "https://huggingface.co/spaces/bigcode/bigcode-model-license-agreement"
_LINKS = {"bigcode-openrail-m": _OPEN_RAIL}
_FAMILIES = {"bigcode/starcoder2": "bigcode-openrail-m"}  # where the base's card can't be had


@dataclass(frozen=True)
class BaseLicence:
    """`name` as the hub spells it (`apache-2.0`), or the base's own name for it; empty where none is known."""

    name: str
    link: str = ""

    @property
    def restricts_use(self) -> bool:
        """Whether it is one of the responsible AI licences, whose restrictions every copy passes on."""
        return "rail" in self.name.lower()


def base_licence(name: str, where: str, revision: str | None) -> BaseLicence:
    """From the card of the base at `where`, a folder or a hub id; without one, of a family that is known by name."""
    facts: Any = {}
    if card := _file(where, "README.md", revision):
        from huggingface_hub import metadata_load

        facts = metadata_load(card) or {}
    known = str(facts.get("license") or "")
    if known == "other":
        known = str(facts.get("license_name") or "")
    known = known or next((licence for family, licence in _FAMILIES.items() if name.startswith(family)), "")
    return BaseLicence(known, str(facts.get("license_link") or _LINKS.get(known, "")))


def licence_files(where: str, revision: str | None) -> Iterator[Path]:
    """The base's licence texts, which go with every copy."""
    for name in _FILES:
        if file := _file(where, name, revision):
            yield file


def _file(where: str, name: str, revision: str | None) -> Path | None:
    """None where there is none, or the hub can't be reached."""
    from transformers.utils.hub import cached_file

    found = cached_file(
        where,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(found) if found else None
