"""Settings merged into texts: only they change, what can't be merged is refused, and a second merge changes nothing."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from longrepo.errors import InputError
from longrepo.serve.settings_merge import merge_block, merge_continue, merge_json, merge_toml

MODEL = {
    "name": "longrepo",
    "model": "longrepo",
    "roles": ["autocomplete"],
    "promptTemplates": {"autocomplete": "{{a}}\n"},
}


def json_added(before: str, settings: dict[str, Any], after: str) -> None:
    assert merge_json(before, settings) == after
    assert merge_json(after, settings) == after


def test_json_keeps_comments_trailing_commas_and_the_indent() -> None:
    json_added(
        '// top\n{\n\t"a": 1, // one\n\t"b": [1, 2,], /* two */\n}\n// end',
        {"a": 2, "c": True},
        '// top\n{\n\t"a": 2, // one\n\t"b": [1, 2,], /* two */\n\t"c": true,\n}\n// end',
    )


def test_json_puts_the_comma_before_the_last_members_comment() -> None:
    json_added('{\n    "a": 1 // one, {\n}\n', {"c": "é"}, '{\n    "a": 1, // one, {\n    "c": "é"\n}\n')


def test_json_merges_into_objects_however_they_are_written() -> None:
    settings = {"e": {"f": 1, "g": {"h": None}}}
    json_added('{"e": {"x": 0}}', settings, '{"e": {"x": 0,\n  "f": 1,\n  "g": {\n    "h": null\n  }\n}}')
    json_added("{}", {"a": 1}, '{\n  "a": 1\n}')
    json_added("{\n  // nothing\n}", {"a": 1}, '{\n  // nothing\n  "a": 1\n}')
    json_added("", {"a": 1}, '{\n  "a": 1\n}\n')


def test_json_changes_the_last_of_two_equal_keys_which_editors_read() -> None:
    json_added('{"a": 1, "b": {"a": 1}, "a": 2}', {"a": 3}, '{"a": 1, "b": {"a": 1}, "a": 3}')


def test_json_keeps_windows_line_ends() -> None:
    json_added('{\r\n  "a": 1\r\n}\r\n', {"b": 2, "c": 3}, '{\r\n  "a": 1,\r\n  "b": 2,\r\n  "c": 3\r\n}\r\n')


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{\n"a": 1\n"b": 2}', "isn't JSON (line 2)"),
        ('{"a": 1', "isn't JSON (line 1)"),
        ("{'a': 1}", "isn't JSON (line 1)"),
        ('{\n"a": f()}', "isn't JSON (line 2)"),
        ("{\n...a}", "isn't JSON (line 2)"),
        ('[{"a": 1}]', "isn't an object"),
        ('{"a": 1}, {}', "isn't JSON"),
        ('{"a": 1}) ; ({}', "isn't JSON"),
        ("// nothing", "isn't JSON"),
        ('{"e": null}', '"e" is there and holds no settings'),
    ],
)
def test_json_that_cannot_be_merged_is_refused(text: str, why: str) -> None:
    with pytest.raises(InputError) as refused:
        merge_json(text, {"e": {"f": 1}})
    assert why in str(refused.value)


CONTINUE = {
    "nothing": "",
    "a comment": "# mine",
    "no models": "name: a # b\nversion: 1",
    "an empty list": "models: [] # none\nname: a\n",
    "null": "models:\nname: a\n",
    "another model, unindented": "models:\n- name: x\n  model: y # z\n# tail\nrules: []\n",
    "a block of text": "models:\n  - name: x\n    systemMessage: |\n      hi\n\n# end\n",
    "a hub's model": "models:\n  - uses: a/b\n    with: {K: '${{ secrets.K }}'}\n",
    "windows": "models:\r\n  - name: x\r\n    model: y\r\n",
}


@pytest.mark.parametrize("text", CONTINUE.values(), ids=CONTINUE)
def test_a_model_is_added_to_continues_and_every_line_stays(text: str) -> None:
    merged = merge_continue(text, MODEL)
    before, after = yaml.safe_load(text) or {}, yaml.safe_load(merged)
    assert after["models"] == [*(before.get("models") or []), MODEL]
    assert {key: after[key] for key in before if key != "models"} == {k: v for k, v in before.items() if k != "models"}
    rest = iter(merged.splitlines())
    assert all(line.replace("[] ", " ") in rest for line in text.splitlines() if line), "a line is gone or moved"
    assert merge_continue(merged, MODEL) == merged
    assert ("\r\n" in text) == ("\r\n" in merged)


def test_continues_model_of_that_name_is_changed_and_its_other_settings_stay() -> None:
    before = (
        "models:\n  - name: longrepo # mine\n    model: old # why\n    autocompleteOptions:\n      debounceDelay: 9\n"
        "    roles:\n    - chat\n    - edit # e\n    promptTemplates:\n      chat: none\n  - name: z\n    model: y\n"
    )
    after = (
        'models:\n  - name: longrepo # mine\n    model: "longrepo" # why\n'
        "    autocompleteOptions:\n      debounceDelay: 9\n"
        '    roles: ["autocomplete"] # e\n    promptTemplates:\n      chat: none\n      autocomplete: "{{a}}\\n"\n'
        "  - name: z\n    model: y\n"
    )
    assert merge_continue(before, MODEL) == after


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("models: [\n", "isn't YAML (line 2)"),
        ("a: b\n---\nc: d\n", "isn't YAML (line 2)"),
        ("models: !x 3\n", "isn't YAML (line 1)"),
        ("- a\n", "isn't a block"),
        ("{models: []}\n", "isn't a block"),
        ("models: 3\n", "is no list"),
        ("models: [{name: x}]\n", "paste these by hand"),
        ("models:\n- name: longrepo\n  promptTemplates:\n", '"promptTemplates" is there'),
    ],
)
def test_yaml_that_cannot_be_merged_is_refused(text: str, why: str) -> None:
    with pytest.raises(InputError) as refused:
        merge_continue(text, MODEL)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# mine\n[model.chat.http]\nkind='a' # k\n[server]\nport=1\n",
        "[model.completion.http]\r\nkind = 'old' # o\r\n",
    ],
)
def test_toml_keeps_everything_else(text: str) -> None:
    settings = {"model": {"completion": {"http": {"kind": "new", "model_name": "m"}}}}
    merged = merge_toml(text, settings)
    assert tomllib.loads(merged)["model"]["completion"]["http"] == {"kind": "new", "model_name": "m"}
    kept = [line for line in text.splitlines(keepends=True) if "old" not in line]
    rest = iter(merged.splitlines(keepends=True))
    assert all(line in rest for line in kept)
    assert ("# o\r\n" in text) == ("# o\r\n" in merged)
    assert merge_toml(merged, settings) == merged


@pytest.mark.parametrize(
    ("text", "why"), [("x = \n", "isn't TOML"), ("a = 1\na = 2\n", "isn't TOML"), ("e = 3\n", '"e"')]
)
def test_toml_that_cannot_be_merged_is_refused(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        merge_toml(text, {"e": {"f": 1}})


@pytest.mark.parametrize(
    "text", ["", "one\n\f\ntwo", "one\n", "one\r\n\r\n", ";; longrepo: begin\nold\n;; longrepo: end\nthree\n"]
)
def test_a_block_of_code_is_put_at_the_end_or_in_its_own_place(text: str) -> None:
    merged = merge_block(text, "(a)\n(b)", ";;")
    lines = merged.splitlines()
    assert "".join(lines).count(";; longrepo: begin(a)(b);; longrepo: end") == 1
    assert "old" not in merged
    if "longrepo" in text:
        assert lines[-1] == "three"
    else:
        assert merged.startswith(text)
    assert ("\r\n" in text) == ("\r\n" in merged)
    assert merge_block(merged, "(a)\n(b)", ";;") == merged


@pytest.mark.parametrize("text", ["-- longrepo: begin\n", "-- longrepo: end\n-- longrepo: begin\n"])
def test_half_a_block_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="don't enclose one part"):
        merge_block(text, "x", "--")


@pytest.mark.parametrize(
    ("merge", "settings"), [(merge_json, {"a": 1}), (merge_toml, {"a": 1}), (merge_continue, MODEL)]
)
def test_a_merged_new_text_stays(merge: Callable[[str, Any], str], settings: dict[str, Any]) -> None:
    new = merge("", settings)
    assert new.endswith("\n") and merge(new, settings) == new
