"""One way in for settings: a YAML file, then `--set key=value`, then one report of everything that is wrong."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from longrepo.config.combinations import impossible_combinations
from longrepo.config.schema import Settings
from longrepo.errors import InputError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `5e-5` as text (it wants a dot); people mean a number. Duplicate keys are refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_settings(file: Path | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Settings from a YAML file (defaults where it is None or silent) and `section.key=value` overrides.

    Raises InputError listing every problem at once, each with its file, key and what was expected.
    """
    tree = _read_yaml(file) if file else {}
    origin = dict.fromkeys(_leaves(tree), str(file))
    problems: list[str] = []
    for override in overrides:
        _apply_override(tree, override, origin, problems)
    settings = _validate(tree, origin, str(file) if file else "settings", problems)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise InputError(f"{count} in the settings:\n  " + "\n  ".join(problems) if len(problems) > 1 else problems[0])
    return settings


def _validate(tree: dict[str, Any], origin: dict[str, str], file: str, problems: list[str]) -> Settings:
    """Settings from what is valid in the tree; what isn't is explained in `problems` and left at its default,
    so that impossible combinations among the rest are reported in the same go."""
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        keys: dict[tuple[str, ...], None] = {}
        for one in error.errors():
            key = tuple(str(part) for part in one["loc"][:2])
            if key not in keys:  # a union reports each member it tried
                expected = [e["msg"] for e in error.errors() if tuple(str(p) for p in e["loc"][:2]) == key]
                problems.append(_explain(one, key, expected, origin, file))
            keys[key] = None
        valid = {
            section: {k: v for k, v in body.items() if (section, k) not in keys} if isinstance(body, dict) else body
            for section, body in tree.items()
            if (section,) not in keys
        }
        settings = Settings.model_validate(valid)
    for dotted, problem in impossible_combinations(settings):
        problems.append(f"{origin.get(dotted, file)}: {dotted}: {problem}")
    return settings


def settings_hash(part: BaseModel) -> str:
    """The first 16 hex digits of the SHA-256 of a section's values; equal settings, equal hash."""
    return hashlib.sha256(json.dumps(part.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]


def dump_yaml(settings: Settings) -> str:
    """The resolved settings as YAML that `load_settings` reads back to the same values."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{file}: no such settings file; give one with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: can't be read as a settings file ({error}); give a YAML text file") from None
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise InputError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"{file}: expected sections such as `model:` and `training:`, found {type(tree).__name__}")
    return {section: {} if body is None else body for section, body in tree.items()}  # `lora:` alone sets nothing


def _apply_override(tree: dict[str, Any], override: str, origin: dict[str, str], problems: list[str]) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or len(parts) != 2 or not all(parts):
        problems.append(f"--set {override}: expected section.key=value, such as lora.r=16")
        return
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        value = text
    section = tree.setdefault(parts[0], {})
    if not isinstance(section, dict):
        return  # the validation names this section's wrong type
    section[parts[1]] = value
    origin[".".join(parts)] = f"--set {override}"


def _leaves(tree: dict[str, Any]) -> Iterator[str]:
    for section, keys in tree.items():
        yield str(section)
        if isinstance(keys, dict):
            yield from (f"{section}.{key}" for key in keys)


def _explain(error: Any, location: tuple[str, ...], expected: list[str], origin: dict[str, str], file: str) -> str:
    key = ".".join(location)
    where = origin.get(key, file)
    if error["type"] == "extra_forbidden":
        nearest = _nearest(location)
        return f"{where}: unknown key {key}" + (f"; did you mean {nearest}?" if nearest else "")
    wanted = " or ".join(message.removeprefix("Input should be ") for message in dict.fromkeys(expected))
    return f"{where}: {key}: expected {wanted}, got {error.get('input')!r}"


def _nearest(location: tuple[str, ...]) -> str | None:
    sections = {name: field.annotation for name, field in Settings.model_fields.items()}
    if len(location) == 1:
        known = [*sections, *(f"{s}.{k}" for s, model in sections.items() for k in model.model_fields)]  # type: ignore[union-attr]
        by_last = {name.rpartition(".")[2]: name for name in known}
        match = difflib.get_close_matches(location[0], list(by_last), n=1)
        return by_last[match[0]] if match else None
    keys = list(sections[location[0]].model_fields)  # type: ignore[union-attr]
    match = difflib.get_close_matches(location[1], keys, n=1, cutoff=0.5)
    return f"{location[0]}.{match[0]}" if match else None
