"""Settings merged into the text of an editor's file: JSON with comments, Continue's YAML, TOML, marked lines of code.

The text is changed at the settings alone; comments, order and spacing stay. Each result is parsed again and must hold
what the file held, with the settings changed. Otherwise `InputError` says why, in one line without the file's name.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from longrepo.errors import InputError

if TYPE_CHECKING:
    from tree_sitter import Node

Values = dict[str, Any]


class _Edit(NamedTuple):
    """Replace the text from `start` to `end` (bytes in JSON, characters in YAML)."""

    start: int
    end: int
    text: str


def merged_values(old: Values, new: Values) -> Values:
    """Return `old` with the values of `new`, folder by folder of the tree. Raises InputError if one isn't a table."""
    result = dict(old)
    for key, value in new.items():
        if isinstance(value, dict) and key in result:
            if not isinstance(result[key], dict):
                raise InputError(f'"{key}" is there and holds no settings; correct or remove it')
            value = merged_values(result[key], value)
        result[key] = value
    return result


def _in_reverse(edits: Iterator[_Edit]) -> list[_Edit]:
    """Return edits from the last to the first; of those at one place, the later one's text stands behind."""
    return [edit for _, edit in sorted(enumerate(edits), key=lambda one: (one[1].start, one[0]), reverse=True)]


def _check(found: object, expected: object) -> None:
    if found != expected:
        raise InputError("can't be changed without changing other settings; paste these by hand")


# JSON with comments


def merge_json(text: str, settings: Values) -> str:
    """Merge settings into JSON that may have comments and trailing commas, as VS Code and Zed read it."""
    if not text.strip():
        return json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    data, root = _parse_json(text)
    old = _json_value(root)
    if not isinstance(old, dict):
        raise InputError("isn't an object of settings")
    expected = merged_values(old, settings)
    if old == expected:
        return text
    newline = "\r\n" if "\r\n" in text else "\n"
    first = next(_pairs(root), None)
    unit = _line_indent(data, first.start_byte) if first and first.start_point[0] > root.start_point[0] else "  "
    for edit in _in_reverse(_json_edits(data, root, settings, unit or "  ", newline)):
        data = data[: edit.start] + edit.text.encode() + data[edit.end :]
    changed = data[1:-2].decode()
    _check(_json_value(_parse_json(changed)[1]), expected)
    return changed


def _parse_json(text: str) -> tuple[bytes, Node]:
    """Return the text in parentheses, which JavaScript's grammar reads as a value, and the value's node."""
    from tree_sitter import Parser
    from tree_sitter_language_pack import get_language

    data = b"(" + text.encode() + b"\n)"
    tree = Parser(get_language("javascript")).parse(data)
    statements = [one for one in tree.root_node.named_children if one.type != "comment"]
    inner = [one for one in statements[0].named_children if one.type != "comment"] if len(statements) == 1 else []
    if tree.root_node.has_error or len(inner) != 1 or inner[0].type != "parenthesized_expression":
        raise InputError(f"isn't JSON{_first_error(tree.root_node)}")
    values = [one for one in inner[0].named_children if one.type != "comment"]
    return data, values[0]


def _first_error(node: Node) -> str:
    for child in node.children:
        if child.is_error or child.is_missing:
            return f" (line {child.start_point[0] + 1})"
        if child.has_error:
            return _first_error(child)
    return ""


def _json_value(node: Node) -> Any:
    text = (node.text or b"").decode()
    if node.type == "object":
        return {key: _json_value(value) for key, value in _members(node)}
    if node.type == "array":
        return [_json_value(one) for one in node.named_children if one.type != "comment"]
    try:
        return json.loads(text)
    except ValueError:
        raise InputError(f"isn't JSON (line {node.start_point[0] + 1})") from None


def _pairs(node: Node) -> Iterator[Node]:
    for one in node.named_children:
        if one.type == "pair":
            yield one
        elif one.type != "comment":
            raise InputError(f"isn't JSON (line {one.start_point[0] + 1})")


def _members(node: Node) -> Iterator[tuple[str, Node]]:
    for pair in _pairs(node):
        key, value = pair.child_by_field_name("key"), pair.child_by_field_name("value")
        if key is None or value is None or key.type != "string":
            raise InputError(f"isn't JSON (line {pair.start_point[0] + 1})")
        yield _json_value(key), value


def _line_indent(data: bytes, position: int) -> str:
    start = data.rfind(b"\n", 0, position) + 1
    return re.match(rb"[ \t]*", data[start:position])[0].decode()  # type: ignore[index]  # it always matches


def _json_edits(data: bytes, node: Node, settings: Values, unit: str, newline: str) -> Iterator[_Edit]:
    members = dict(_members(node))  # of a key that is there twice, editors read the last
    outer = _line_indent(data, node.start_byte)
    indent = outer + unit

    def dumps(value: object) -> str:
        return json.dumps(value, indent=unit, ensure_ascii=False).replace("\n", newline + indent)

    missing = []
    for key, value in settings.items():
        if key not in members:
            missing.append(f"{indent}{json.dumps(key)}: {dumps(value)}")
        elif isinstance(value, dict):
            yield from _json_edits(data, members[key], value, unit, newline)
        elif _json_value(members[key]) != value:
            yield _Edit(members[key].start_byte, members[key].end_byte, dumps(value))
    if missing:
        yield from _json_insertion(node, f",{newline}".join(missing), outer, newline)


def _json_insertion(node: Node, added: str, outer: str, newline: str) -> Iterator[_Edit]:
    """Yield the edits that put members behind an object's last one, and behind the comment in its line."""
    pairs = list(_pairs(node))
    inside = node.children[1:-1]  # without the braces
    if pairs:
        behind = [one for one in inside if one.start_byte >= pairs[-1].end_byte]
        comma = any(one.type == "," for one in behind)
        row = pairs[-1].end_point[0]
        place = max((one.end_byte for one in behind if one.start_point[0] == row), default=pairs[-1].end_byte)
        if comma:
            added += ","
            place = max(place, *(one.end_byte for one in behind if one.type == ","))
        elif place == pairs[-1].end_byte:
            added = f",{newline}{added}"
        else:
            yield _Edit(pairs[-1].end_byte, pairs[-1].end_byte, ",")
        added = added if added.startswith(",") else newline + added
    else:
        place = inside[-1].end_byte if inside else node.start_byte + 1
        added = newline + added
    closing = node.children[-1]
    last = inside[-1].end_point[0] if inside else node.start_point[0]
    yield _Edit(place, place, added + (newline + outer if closing.start_point[0] == last else ""))


# Continue's YAML


def merge_continue(text: str, model: Values) -> str:
    """Merge a model into Continue's `config.yaml`: the one of its name is changed, or it is added behind the others."""
    try:
        root, old = yaml.compose(text, yaml.SafeLoader), yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise InputError(f"isn't YAML{f' (line {mark.line + 1})' if mark else ''}") from None
    newline = "\r\n" if "\r\n" in text else "\n"
    if root is None:
        new = ["name: Local Config", "version: 1.0.0", "schema: v1", *_models_key(model), ""]
        return text + newline * bool(text and not text.endswith("\n")) + newline.join(new)
    if not isinstance(root, yaml.MappingNode) or not isinstance(old, dict) or root.flow_style:
        raise InputError("isn't a block of settings")
    models = old.get("models") or []
    if not isinstance(models, list):
        raise InputError('"models" is there and is no list; correct or remove it')
    there = [number for number, one in enumerate(models) if isinstance(one, dict) and one.get("name") == model["name"]]
    added = [merged_values(models[there[0]], model) if there else model]
    expected = old | {"models": [*models[: there[0]], *added, *models[there[0] + 1 :]] if there else [*models, *added]}
    if old == expected:
        return text
    node = next((value for key, value in root.value if key.value == "models"), None)
    for edit in _in_reverse(_yaml_edits(text, node, models, there, model)):
        text = text[: edit.start] + edit.text.replace("\n", newline) + text[edit.end :]
    try:
        _check(yaml.safe_load(text), expected)
    except yaml.YAMLError:
        _check(text, None)
    return text


def _yaml_edits(
    text: str, node: yaml.Node | None, models: list[Any], there: list[int], model: Values
) -> Iterator[_Edit]:
    if there and isinstance(node, yaml.SequenceNode):
        yield from _yaml_mapping_edits(text, node.value[there[0]], models[there[0]], model)
    elif node is None:
        yield _Edit(len(text), len(text), "\n".join([*([] if text.endswith("\n") else [""]), *_models_key(model), ""]))
    elif isinstance(node, yaml.SequenceNode) and node.value:
        place, dash = _line_end(text, _yaml_end(node)), " " * node.start_mark.column
        yield _Edit(place, place, "\n" + "\n".join(dash + line for line in _yaml_item(model)))
    else:  # nothing, or `[]`
        yield _Edit(node.start_mark.index, node.end_mark.index, "")
        place = _line_end(text, node.end_mark.index)
        yield _Edit(place, place, "\n" + "\n".join(_models_key(model)[1:]))


def _yaml_mapping_edits(text: str, node: yaml.Node, old: Values, settings: Values) -> Iterator[_Edit]:
    there = {key.value: (key, value) for key, value in node.value}
    missing: Values = {}
    for key, value in settings.items():
        if key not in there:
            missing[key] = value
        elif isinstance(value, dict):
            yield from _yaml_mapping_edits(text, there[key][1], old[key], value)
        elif old[key] != value:
            name, found = there[key]
            new = json.dumps(value, ensure_ascii=False)
            collection = isinstance(found, yaml.CollectionNode)
            if not found.flow_style if collection else found.style in ("|", ">"):  # it stands in the lines below
                yield _Edit(name.end_mark.index, len(text[: _yaml_end(found)].rstrip()), f": {new}")
            else:
                yield _Edit(found.start_mark.index, found.end_mark.index, new)
    if missing:
        place, indent = _line_end(text, _yaml_end(node)), " " * node.start_mark.column
        yield _Edit(place, place, "\n" + "\n".join(indent + line for line in _yaml_lines(missing)))


def _yaml_end(node: yaml.Node) -> int:
    """Return where a node's last value ends; a block's own end mark stands behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _yaml_end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _line_end(text: str, position: int) -> int:
    """Return the end of the line whose text ends at the position; a `|` block ends at the beginning of the next."""
    position = len(text[:position].rstrip())
    end = text.find("\n", position)
    return len(text[:end].rstrip("\r")) if end >= 0 else len(text)


def _models_key(model: Values) -> list[str]:
    return ["models:", *(f"  {line}" for line in _yaml_item(model))]


def _yaml_item(model: Values) -> list[str]:
    first, *others = _yaml_lines(model)
    return [f"- {first}", *(f"  {line}" for line in others)]


def _yaml_lines(values: Values) -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{key}:"
            yield from (f"  {line}" for line in _yaml_lines(value))
        else:
            plain = isinstance(value, str) and re.fullmatch(r"[\w./:-]+", value) and yaml.safe_load(value) == value
            yield f"{key}: {value if plain else json.dumps(value, ensure_ascii=False)}"


# TOML


def merge_toml(text: str, settings: Values) -> str:
    """Merge settings into TOML."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document, old = tomlkit.parse(text), tomllib.loads(text.replace("\r\n", "\n"))
    except (TOMLKitError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"isn't TOML: {error}") from None
    expected = merged_values(old, settings)
    if old == expected:
        return text
    _set_toml(document, settings)
    changed = tomlkit.dumps(document)
    if text.count("\r\n") == text.count("\n") > 0:
        changed = changed.replace("\r\n", "\n").replace("\n", "\r\n")
    _check(tomllib.loads(changed.replace("\r\n", "\n")), expected)
    return changed


def _set_toml(table: Any, settings: Values) -> None:
    import tomlkit

    for key, value in settings.items():
        if isinstance(value, dict):
            if key not in table:
                table[key] = tomlkit.table(is_super_table=any(isinstance(one, dict) for one in value.values()))
            _set_toml(table[key], value)
        elif table.get(key) != value:
            table[key] = value


# Lines of code


def merge_block(text: str, code: str, comment: str) -> str:
    """Put code between two marked comments, in place of what stands there, or at the end of the text."""
    first, last = f"{comment} longrepo: begin", f"{comment} longrepo: end"
    end = "\r\n" if "\r\n" in text else "\n"
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    starts, ends = ([number for number, line in enumerate(lines) if line.strip() == mark] for mark in (first, last))
    block = "".join(line + end for line in (first, *code.splitlines(), last))
    if not starts and not ends:
        space = end * ((not text.endswith("\n")) + 1) if text.strip() else ""
        return f"{text}{space}{block}"
    if len(starts) != 1 or len(ends) != 1 or ends[0] < starts[0]:
        raise InputError(f'"{first}" and "{last}" don\'t enclose one part; remove them and what they enclose')
    return "".join([*lines[: starts[0]], block, *lines[ends[0] + 1 :]])
