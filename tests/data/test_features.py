"""What a text is found to be, and that it comes back from its bytes as it was; nothing secret gets that far."""

from __future__ import annotations

import base64
import random
from itertools import pairwise

import numpy as np
import pytest
import xxhash
from small_packages import module

from longrepo.config.schema import DataSettings
from longrepo.data.builder import LongContextSequenceBuilder
from longrepo.data.features import (
    AddedJob,
    FeatureExtractor,
    Features,
    FileJob,
    Job,
    StepJob,
    WindowJob,
    is_still_valid,
    pack_skip_reason,
    skip_reason,
    unpack_features,
)
from longrepo.data.sequence import LongContextSequence
from longrepo.data.text import path_tokens, token_boundaries
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.redaction.redactor import Redactor
from longrepo.utils.hashing import line_hash

TEXT = module("amber", "birch", 5)
COMMIT = "0123456789abcdef" * 2 + "01234567"
ADA = ("Ada Lindqvist", "ada@lindqvist-labs.se")


def analysed(tokenizer: RepoTokenizer, job: Job, redactor: Redactor | None = None) -> Features:
    (result,) = FeatureExtractor(tokenizer, redactor, 0.1).extract([job])
    return unpack_features(result, job.path, path_tokens(tokenizer, job.path))


def token_of_key(seed: int) -> str:
    draw = random.Random(seed)
    return "ghp_" + "".join(
        draw.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") for _ in range(36)
    )


def key_lines(seed: int) -> list[str]:
    """The body of a private key, 64 characters a line."""
    body = base64.b64encode(random.Random(seed).randbytes(900)).decode()
    return [body[at : at + 64] for at in range(0, len(body), 64)]


def pem(seed: int) -> str:
    inside = "\n".join(key_lines(seed))
    return f"-----BEGIN RSA PRIVATE KEY-----\n{inside}\n-----END RSA PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "text",
    ["", "x", "\n", "a\n\n\n  b\n", TEXT, "é = '日本'\r\n\tß\n", "x" * 70_000 + "\n", "\n" * 300, "\U0001f600" * 9],
)
def test_a_text_comes_back_from_its_bytes(tokenizer: RepoTokenizer, text: str) -> None:
    of = analysed(tokenizer, FileJob("a.py", text)).text
    ids, starts = tokenizer.encode_many([text])[0]
    assert of.text == text and of.ids.tolist() == ids.tolist() and of.starts.tolist() == starts.tolist()
    bounds = [0, *of.lines.tolist(), len(of)]
    assert "".join(of.slice_text(a, b) for a, b in pairwise(bounds)) == text
    assert [id for a, b in pairwise(bounds) for id in of.ids[a:b].tolist()] == ids.tolist()
    assert set(of.cuts.tolist()) <= set(range(1, max(1, len(of))))
    assert of.row_hashes.tolist() == [line_hash(line) for line in text.split("\n")]
    assert len(of.depth) == len(of) and of.path_ids.tolist() == tokenizer.encode(" a.py\n")


def test_names_depth_and_definitions_are_those_of_the_text(tokenizer: RepoTokenizer) -> None:
    of = analysed(tokenizer, FileJob("a.py", TEXT)).text
    at = TEXT.index("amber_2_result * ") if "amber_2_result * " in TEXT else TEXT.index("return amber_2_result")
    token = of.token_at(at)
    assert of.depth[token] == 1 and of.depth[of.token_at(TEXT.index("def amber_step_2"))] == 0
    assert of.depth[of.token_at(TEXT.rindex("        return")) + 1] == 2
    assert [one.name for one in of.outline.definitions] == [f"amber_step_{n}" for n in range(5)]
    assert len(of.defines) == 5 and set(of.defines.tolist()) <= set(of.names.tolist())
    assert (np.diff(of.name_tokens) >= 0).all() and of.name_tokens.max() < len(of)
    for name_token, start in zip(of.name_tokens.tolist()[:40], of.starts[of.name_tokens].tolist()[:40], strict=True):
        assert TEXT[start:].lstrip()[:1].isidentifier() or TEXT[start:].lstrip()[:1].isalnum() or name_token == 0


def test_nothing_depends_on_the_path_but_its_language(tokenizer: RepoTokenizer) -> None:
    one, other, text = FeatureExtractor(tokenizer, None, 0.1).extract(
        [FileJob("a.py", TEXT), FileJob("b/c.py", TEXT), FileJob("a.txt", TEXT)]
    )
    assert one == other != text
    assert unpack_features(text, "a.txt", path_tokens(tokenizer, "a.txt")).text.language != "Python"


def test_a_change_is_its_message_and_hunks_weighed_row_by_row(tokenizer: RepoTokenizer) -> None:
    before = "def one():\n    return 1\n\n\ndef two():\n    return 2\n"
    after = before.replace("return 1", "return 11").replace("two", "second")
    found = analysed(tokenizer, StepJob("x.py", COMMIT, "Rename two\n\nFor clarity.\n", before, after))
    of = found.text
    assert of.text.startswith(" 01234567 Rename two\n\nFor clarity.\n@@ -1,7 +1,7 @@\n def one():\n-    return 1\n+")
    assert of.weights is not None and len(of.weights) == len(of)
    by_weight = {
        weight: "".join(of.slice_text(at, at + 1) for at in range(len(of)) if abs(of.weights[at] - weight) < 1e-6)
        for weight in (0.1, 1.0)
    }
    assert "Rename two\n\nFor clarity." in by_weight[1.0] and "+    return 11" in by_weight[1.0]
    for context in ("01234567", "@@", "-    return 1\n", "-def two"):
        assert context in by_weight[0.1] and context not in by_weight[1.0]
    assert of.slice_text(0, found.facts["message"]).strip() == "01234567 Rename two\n\nFor clarity."
    assert not found.facts["formatting"]


def test_its_hunks_name_the_line_that_encloses_them_and_are_places_to_cut(tokenizer: RepoTokenizer) -> None:
    after = TEXT.replace("Step 4 of", "Pace 4 of").replace("Step 1 of", "Pace 1 of")
    redactor = Redactor([])
    for of in (analysed(tokenizer, StepJob("x.py", COMMIT, "Pace", TEXT, after), how).text for how in (None, redactor)):
        titles = [row for row in of.text.split("\n") if row.startswith("@@")]
        assert len(titles) == 2 and of.text.split("\n")[1] == titles[0]
        assert [of.slice_text(int(at), int(at) + 9)[:4] for at in of.cuts] == ["@@ -", "@@ -"]
    rows = "".join(f"        {name} = {name}0\n" for name in "abcd")
    before = f"class Box:\n    def size(self):\n{rows}        return a\n"
    of = analysed(tokenizer, StepJob("x.py", COMMIT, "Four", before, before.replace("d0", "d5"))).text
    title = next(row for row in of.text.split("\n") if row.startswith("@@"))
    assert title == "@@ -3,6 +3,6 @@ def size(self):"
    hashes = set(of.row_hashes.tolist())
    assert line_hash("def size(self):") in hashes and line_hash("class Box:") not in hashes


def test_of_a_long_message_whole_lines_stay(tokenizer: RepoTokenizer) -> None:
    message = "Subject\n\n" + "".join(f"- point {number} of many\n" for number in range(60))
    of = analysed(tokenizer, StepJob("x.py", COMMIT, message, "a = 1\n", "a = 2\n")).text
    head = of.text[: of.text.index("@@")]
    assert 300 < len(head) < 420 and head.startswith(" 01234567 Subject\n\n- point 0") and head.endswith(" of many\n")


@pytest.mark.parametrize("after", [TEXT.replace("    ", "\t"), TEXT.replace("\n\n", "\n"), TEXT.replace("\n", "\r\n")])
def test_a_change_of_white_space_alone_is_empty(tokenizer: RepoTokenizer, after: str) -> None:
    found = analysed(tokenizer, StepJob("x.py", COMMIT, "Tidy", TEXT, after))
    assert not len(found.text) and found.facts["formatting"]
    more = analysed(tokenizer, StepJob("x.py", COMMIT, "Tidy", TEXT, after + "x = 1\n"))
    assert len(more.text) and not more.facts["formatting"]


@pytest.mark.parametrize(("row", "characters"), [(0, 100), (20, 600), (33, 40), (10_000, 300), (5, 10**6)])
def test_a_window_is_whole_lines_around_a_row(tokenizer: RepoTokenizer, row: int, characters: int) -> None:
    found = analysed(tokenizer, WindowJob("x.py", TEXT, ((row, row + 1),), characters))
    lines, shown = TEXT.split("\n"), found.text.text.split("\n")
    if row < len(lines):
        ((first, _),) = found.facts["spans"]
        assert shown[first] == lines[row]
    assert found.text.text in TEXT and set(shown) <= {*lines, ""}
    assert len(found.text.text) <= characters + max(map(len, lines)) + 1
    assert (found.text.text == TEXT) == (characters > len(TEXT))


def test_a_window_shows_every_place_asked_for(tokenizer: RepoTokenizer) -> None:
    text = "".join(f"line_{number} = {number}\n" for number in range(300))
    found = analysed(tokenizer, WindowJob("x.py", text, ((20, 22), (250, 251)), 1200))
    shown = found.text.text.split("\n")
    assert [shown[first:last] for first, last in found.facts["spans"]] == [
        ["line_20 = 20", "line_21 = 21"], ["line_250 = 250"]
    ]  # fmt: skip
    assert 900 < len(found.text.text) <= 1200 and "line_100 = 100" not in shown and not found.text.ends
    (few,) = analysed(tokenizer, WindowJob("x.py", text, ((20, 40), (250, 251)), 60)).facts["spans"]
    assert few[1] - few[0] == 4


def test_what_a_commit_added_is_told_in_rows(tokenizer: RepoTokenizer) -> None:
    found = analysed(tokenizer, AddedJob("x.py", "a\nb\nc\n", "a\nnew\nb\nc\nnewer\n"))
    assert found.facts["added"] == [[1, 2], [4, 5]] and found.text.text == "a\nnew\nb\nc\nnewer\n"


def test_secrets_are_gone_before_anything_is_tokenized(tokenizer: RepoTokenizer) -> None:
    secret = token_of_key(1)
    text = f'"""By Ada Lindqvist, ada@lindqvist-labs.se."""\nTOKEN = "{secret}"\nx = 1\n'
    jobs = [FileJob("a.py", text), AddedJob("a.py", "x = 1\n", text), WindowJob("a.py", text, ((1, 2),), 999)]
    jobs += [StepJob("a.py", COMMIT, f"Use {secret}\n\nSigned-off-by: Ada Lindqvist <a@b.org>", "x = 1\n", text)]
    jobs += [StepJob("a.py", COMMIT, "Drop", text, "x = 1\n")]
    for job in jobs:
        found = analysed(tokenizer, job, Redactor([ADA]))
        assert "<KEY>" in found.text.text and secret not in found.text.text
        assert "Ada" not in found.text.text and "ada@" not in found.text.text
        kinds = {kind for kind, _ in found.facts["findings"]}
        assert {"github token", "name"} <= kinds or isinstance(job, StepJob)
        plain = analysed(tokenizer, job).text.text
        assert secret in plain and "Ada Lindqvist" in plain


@pytest.mark.parametrize("line", [0, 5, 18])
@pytest.mark.parametrize("where", ["alone", "below much code"])
def test_a_private_key_that_a_commit_edits_in_part_is_hidden_whole(
    tokenizer: RepoTokenizer, line: int, where: str
) -> None:
    front = "" if where == "alone" else "\n".join(f"setting_{n} = {n}" for n in range(60)) + "\n"
    before = front + pem(1) + "after = 1\n"
    after = before.replace(key_lines(1)[line], key_lines(2)[line])
    assert before != after
    for job in (
        StepJob("a.pem", COMMIT, "New key", before, after),
        WindowJob("a.pem", after, ((row := (front + pem(1)).count("\n") - 19 + line, row + 1),), 90),
        AddedJob("a.pem", before, after),
    ):
        text = analysed(tokenizer, job, Redactor([])).text.text
        for own in [*key_lines(1), *key_lines(2)]:
            assert own[:24] not in text and own[-24:] not in text


FRAMES = {
    "on a line": ("x.py", 'PASSWORD = "{}"\n'),
    "in a dictionary": ("x.py", 'config = {{\n    "password": "{}",\n    "user": "root",\n}}\n'),
    "on the line below": ("x.py", 'DB_PASSWORD = (\n    "{}"\n)\n'),
    "in YAML": ("x.yaml", "db:\n  user: root\n  password: {}\n"),
    "in an address": ("x.py", 'connect("postgres://admin:{}@db.internal/x")\n'),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_secret_that_replaces_another_hides_both(tokenizer: RepoTokenizer, name: str) -> None:
    path, frame = FRAMES[name]
    old, new = "hunter2Xy9qLw", "tr0ub4dor3Zk8"
    filler = "".join(f"line_{n}{' = ' if path == 'x.py' else ': '}{n}\n" for n in range(12))
    before, after = (filler + frame.format(one) + filler.replace("line", "row") for one in (old, new))
    redactor = Redactor([])
    assert new not in analysed(tokenizer, FileJob(path, after), redactor).text.text
    change = analysed(tokenizer, StepJob(path, COMMIT, "Rotate", before, after), redactor).text.text
    assert "@@" in change and old not in change and new not in change


def test_a_window_that_begins_below_a_secret_s_name_hides_it(tokenizer: RepoTokenizer) -> None:
    text = (
        "".join(f"line_{n} = {n}\n" for n in range(40)) + 'DB_PASSWORD = (\n    "hunter2Xy9qLw"\n)\n' + "end = 1\n" * 9
    )
    found = analysed(tokenizer, WindowJob("x.py", text, ((41, 42),), 12), Redactor([]))
    assert found.text.text == '    "<PASSWORD>"\n' and found.facts["findings"] == [["password", 42]]


def test_findings_of_a_change_are_told_by_the_line_of_the_version_that_held_them(tokenizer: RepoTokenizer) -> None:
    lines = [f"line_{n} = {n}" for n in range(60)]
    before = "\n".join([*lines[:30], f"TOKEN = '{token_of_key(5)}'", *lines[30:]])
    after = "\n".join(["import os", "import sys", *lines[:50], f"KEY = '{token_of_key(6)}'", *lines[50:]])
    found = analysed(tokenizer, StepJob("x.py", COMMIT, "Move it", before, after), Redactor([]))
    assert sorted(found.facts["findings"]) == [["github token", 31], ["github token", 53]]


def test_a_character_of_several_tokens_is_never_cut(tokenizer: RepoTokenizer) -> None:
    text = "a = 1\n\U0001f600 = 2\n\n\U0001f600\U0001f600\nend\n"
    of = analysed(tokenizer, FileJob("a.txt", text)).text
    assert len(tokenizer.encode("\U0001f600")) > 1
    starts = np.array([0, 1, 1, 1, 3], np.int32)  # the second character takes three tokens, the last of them a third
    assert token_boundaries(starts, 4, [0, 1, 2, 3, 4, 9]).tolist() == [0, 1, 1, 4, 5, 5]
    for row, line in enumerate(text.split("\n")[:-1]):
        start, end = of.row_token(row), of.row_token(row + 1)
        assert tokenizer.decode(of.ids[start:end].tolist()).strip("\n") == line
        assert of.slice_text(start, end).strip("\n") == line


def test_what_is_kept_is_valid_while_the_same_people_are_known(tokenizer: RepoTokenizer) -> None:
    text = "# Written by Grace Makerson and Ada Lindqvist\nx = 1\n"
    of_none, of_both = (
        FeatureExtractor(tokenizer, Redactor(people), 0.1).extract([FileJob("a.py", text), FileJob("b.py", "y = 2\n")])
        for people in ([("Zoe Otherly", "z@z.org")], [ADA, ("Grace Makerson", "g@g.org")])
    )
    assert is_still_valid(of_none[0], Redactor([])) and is_still_valid(
        of_none[0], Redactor([("Bo Bystanderson", "b@b.org")])
    )
    assert not is_still_valid(of_none[0], Redactor([ADA])) and not is_still_valid(of_both[0], Redactor([ADA]))
    assert is_still_valid(of_both[0], Redactor([("Grace Makerson", ""), ADA]))
    assert is_still_valid(of_none[1], Redactor([ADA])) and is_still_valid(of_none[0], None)


def test_a_text_left_out_says_why(tokenizer: RepoTokenizer) -> None:
    assert skip_reason(pack_skip_reason("binary")) == "binary"
    for text in ("", "left out"):
        (result,) = FeatureExtractor(tokenizer, None, 0.1).extract([FileJob("a.py", text)])
        assert skip_reason(result) == ""
    assert is_still_valid(pack_skip_reason("binary"), Redactor([ADA]))


DEFINED = {  # language's file, a text that defines names and uses them elsewhere, the names as they are used
    "a.rb": (
        "class Cart\n  def empty?\n    1\n  end\n  def total=(x)\n    2\n  end\nend\n",
        ["Cart", "empty?", "total"],
    ),
    "a.ex": ("defmodule Cart do\n  def save!(c) do\n    c\n  end\nend\n", ["Cart", "save!"]),
    "a.clj": ("(defn add-item [cart]\n  cart)\n(defn empty-cart? [c] true)\n", ["add-item", "empty-cart?"]),
    "a.el": ("(defun my-add-item (x)\n  (+ x 1))\n", ["my-add-item"]),
    "a.lisp": ("(defun add-item (x)\n  (+ x 1))\n", ["add-item"]),
    "a.sh": ("add-item() {\n  echo\n}\nfunction my_fn {\n  echo\n}\n", ["add-item", "my_fn"]),
    "a.ps1": ("function Get-Item2 {\n  1\n}\n", ["Get-Item2"]),
    "Makefile": ("build-all:\n\techo\n", ["build-all"]),
    "a.tf": ('resource "aws_x" "my-name" {\n  a = 1\n}\n', ["my-name"]),
    "a.jl": ("function push_item!(x)\n  x\nend\n", ["push_item!"]),
    "a.hs": ("addItem' :: Int -> Int\naddItem' x = x + 1\n", ["addItem'"]),
    "a.r": ("add.item <- function(x) {\n  x\n}\n", ["add.item"]),
    "a.lua": ("function Cart.total(x)\n  return x\nend\n", ["total"]),
    "a.js": ("function $get() {\n  return `${get}`\n}\n", ["$get"]),
    "a.py": (
        "def количество():\n    return 1\nclass 商品:\n    pass\ndef größe():\n    pass\n",
        ["количество", "商品", "größe"],
    ),
    "a.cc": ("int Shop::total(int x) {\n  return x;\n}\n", ["total"]),
    "a.go": ("func (c *Cart) Total() int { return 1 }\n", ["Total"]),
    "a.php": ("<?php\nfunction add_item($a) { return 1; }\n", ["add_item"]),
}


@pytest.mark.parametrize("path", DEFINED)
def test_what_a_text_defines_is_among_the_names_of_any_language(path: str, tokenizer: RepoTokenizer) -> None:
    text, names = DEFINED[path]
    of = analysed(tokenizer, FileJob(path, text)).text
    assert set(of.defines.tolist()) == {xxhash.xxh32_intdigest(name.encode()) for name in names}
    assert set(of.defines.tolist()) <= set(of.names.tolist())


def test_a_sign_that_ends_a_word_is_no_part_of_its_name(tokenizer: RepoTokenizer) -> None:
    texts = {
        "a.rb": "total!=other\n",
        "a.jl": "total!=other\n",
        "a.py": "total-other\n",
        "a.js": "`${total}` + other\n",
    }
    for path, text in texts.items():
        names = analysed(tokenizer, FileJob(path, text)).text.names.tolist()
        assert names == [xxhash.xxh32_intdigest(name) for name in (b"total", b"other")], path


def test_a_use_is_found_in_a_language_of_dashes(tokenizer: RepoTokenizer) -> None:
    """What a file of Clojure needs of another counts as it does in Python."""
    files = {
        "clj": ("(defn add-item [cart]\n  cart)\n", "(defn go-on [x]\n  (add-item x))\n"),
        "rb": ("def empty?(x)\n  x\nend\n", "def go_on(x)\n  empty?(x)\nend\n"),
        "py": ("def add_item(cart):\n    return cart\n", "def go_on(x):\n    return add_item(x)\n"),
    }
    for suffix, pair in files.items():
        builder = LongContextSequenceBuilder(tokenizer, 512, data=DataSettings(fim_share=0.0))
        built = builder.build_hierarchical_sequence([(f"one.{suffix}", pair[0]), (f"two.{suffix}", pair[1])])
        assert isinstance(built, LongContextSequence)
        assert built.metadata["difficulty_parts"]["references"] > 0, suffix
        assert built.metadata["difficulty_parts"]["distance"] > 0, suffix


def test_code_without_a_grammar_is_nested_by_its_indent(tokenizer: RepoTokenizer) -> None:
    """COBOL, and two neighbors; what has a grammar is nested by its bodies, and prose isn't nested."""
    blocks = "{0}IF A\n{1}IF B\n{2}MOVE C TO D\n{1}END-IF\n{0}END-IF\n"
    for path, indents, deepest in (
        ("a.cbl", ("       ", "           ", "               "), 2), ("a.adb", ("", "   ", "      "), 2),
        ("a.bat", ("", "    ", "        "), 2), ("a.txt", ("", "    ", "        "), 0),
    ):  # fmt: skip
        assert int(analysed(tokenizer, FileJob(path, blocks.format(*indents))).text.depth.max()) == deepest, path
    flat = analysed(tokenizer, FileJob("a.py", "x = (\n    1,\n        2,\n)\n")).text
    assert int(flat.depth.max()) == 0, "a wrapped value is no body"
