"""Copies are learnt once and counted, whatever their paths; files that only look alike are kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from git_helper import Made, make_repo
from small_packages import NAMES, module
from whole import Case, prepared, shown, weighed

from longrepo.config.schema import Settings
from longrepo.data.corpus import DUPLICATE_REASON
from longrepo.data.dedup import BlockIndex, find_duplicates
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer

Read = Callable[[str, str], TokenizedText]
TEXT = module("amber", None, 12)


def found(read: Read, files: dict[str, str]) -> dict[str, str]:
    return find_duplicates({path: read(path, text) for path, text in files.items()})


def changed(share: float) -> str:
    """The text with this share of its lines replaced by others."""
    lines = TEXT.split("\n")
    every = round(1 / share)
    return "\n".join(f"    other_{n} = unlike({n})" if n % every == every - 1 else x for n, x in enumerate(lines))


def test_of_exact_copies_the_first_path_stays(read: Read) -> None:
    assert found(read, {"b.py": TEXT, "a.py": TEXT, "c/d.py": TEXT}) == {"b.py": "a.py", "c/d.py": "a.py"}
    assert found(read, {"b.py": "x = 1\n", "a.py": "x = 1\n"}) == {"b.py": "a.py"}


def test_near_copies_are_found_and_others_kept(read: Read) -> None:
    files = {"a.py": TEXT, "near.py": changed(0.05), "far.py": changed(0.34), "other.py": module("birch", None, 12)}
    assert found(read, files) == {"near.py": "a.py"}


def test_indentation_and_order_of_lines_make_no_other_file(read: Read) -> None:
    indented = "\n".join(f"        {line}" for line in TEXT.split("\n"))
    turned = "\n".join(TEXT.split("\n")[::-1])
    assert found(read, {"a.py": TEXT, "b.py": indented, "c.py": turned}) == {"b.py": "a.py", "c.py": "a.py"}


def test_short_files_and_files_within_others_are_kept(read: Read) -> None:
    short = "\n".join(f"from package.number_{n} import thing_{n}" for n in range(6)) + "\n"
    assert found(read, {"a.py": short, "b.py": short + "# another\n"}) == {}
    assert found(read, {"a.py": TEXT, "part.py": TEXT[: len(TEXT) // 2], "empty.py": "", "empty2.py": ""}) == {}


def test_the_same_as_comparing_all_pairs(read: Read) -> None:
    base = [line for name in NAMES for line in module(name, None, 4).split("\n") if len(line.strip()) > 3]
    files = {}
    for number in range(40):
        kept = [line for at, line in enumerate(base[:120]) if (at * 7 + number * 13) % 100 >= number % 20]
        files[f"f{number:02}.py"] = "\n".join([*kept, *(f"own_{number}_{n} = {n}" for n in range(number % 11))]) + "\n"
    texts = {path: read(path, text) for path, text in files.items()}
    lines = {path: {line.strip() for line in text.split("\n")} - {""} for path, text in files.items()}
    expected: set[str] = set()
    for path in sorted(files):
        firsts = [one for one in sorted(files) if one < path and one not in expected]
        if any(len(lines[path] & lines[one]) / len(lines[path] | lines[one]) >= 0.85 for one in firsts):
            expected.add(path)
    assert set(find_duplicates(texts)) == expected and 5 < len(expected) < 35


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, tokenizer: RepoTokenizer, settings: Settings) -> Case:
    """Ten modules, two copies of the first and one nearly the same; two commits later, copies of held-out lines."""
    files = {f"src/{name}.py": module(name, None, 8) for name in NAMES}
    first = files["src/amber.py"]
    files |= {"copy/amber.py": first, "zoo/amber.txt": first, "zoo/near.py": first.replace("Step 3 of", "Pace 3 of")}
    commits = [Made(files), *(Made({f"src/{name}.py": module(name, None, 9)}) for name in NAMES[:5])]
    return prepared(make_repo(tmp_path_factory.mktemp("copies") / "r", commits), tokenizer, settings, phases=2)


def test_what_is_a_copy_is_learnt_once_and_counted(case: Case, tokenizer: RepoTokenizer) -> None:
    for phase in (1, 2):
        rows = case.of("train", phase, "hierarchical")
        code = "".join(weighed(tokenizer, row) for row in rows)
        assert code.count("def amber_step_2(") == 1
        assert not {"src/amber.py", "zoo/amber.txt", "zoo/near.py"} & {path for row in rows for path in row.files}
    files = case.summary["files"]
    assert files["left_out"][DUPLICATE_REASON] == 3 and files["left_out_bytes"][DUPLICATE_REASON] > 3000
    assert files["duplicate_tokens"] > 2000


def test_no_copy_of_a_held_out_file_is_trained_on(case: Case, tokenizer: RepoTokenizer) -> None:
    held = case.prepared.header.repositories[0].held_out_files
    names = {Path(path).stem for paths in held.values() for path in paths}
    assert names
    for row in case.of("train"):
        assert not any(f"def {name}_step_" in shown(tokenizer, row) for name in names)


@pytest.mark.parametrize("shared, share", [(79, None), (80, 0.8), (81, 0.81)])
def test_four_fifths_of_a_blocks_shingles_make_a_copy(shared: int, share: float | None) -> None:
    """As the documents say; a sequence may hold any number of others."""
    block, sequence = np.arange(100, dtype=np.uint64), np.arange(100 - shared, 300, dtype=np.uint64)
    assert list(BlockIndex([block]).found_in(sequence)) == ([] if share is None else [(0, share)])


@pytest.mark.parametrize("shingles, found", [(19, []), (20, [(0, 1.0)]), (21, [(0, 1.0)])])
def test_a_block_of_fewer_than_twenty_shingles_is_too_short_to_be_a_copy(shingles: int, found: list[object]) -> None:
    block = np.arange(shingles, dtype=np.uint64)
    assert list(BlockIndex([block]).found_in(block)) == found
