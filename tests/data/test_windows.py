"""Windows over a repository: each file's end is scored once, whatever window it is in."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from git_helper import Made, make_repo
from tokenizers import Tokenizer
from whole import prepared

from longrepo.config.loader import load_settings
from longrepo.data.dialects import DIALECTS
from longrepo.data.marks import FILE_END
from longrepo.data.tokenizer import RepoTokenizer

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from dialect_tokenizers import in_dialect

SHORT = ["long_context.phase1_max_length=96", "data.held_out_per_length=1"]
FILES = {f"f{n}.py": "".join(f"name_{n} = {row}\n" for row in range(2 + n * 3 % 7)) for n in range(24)}


@pytest.fixture(scope="module", params=["added", "Qwen", "CodeGemma"])
def marked(request: pytest.FixtureRequest, backend: Tokenizer) -> RepoTokenizer:
    if request.param == "added":
        return RepoTokenizer(backend, "tiny")
    dialect = next(one for one in DIALECTS if one.name == request.param)
    state, config = in_dialect(json.loads(backend.to_str()), dialect)
    return RepoTokenizer(Tokenizer.from_str(json.dumps(state)), request.param, "native", config)


@pytest.mark.parametrize("overlap", [0, 12, 40])
def test_each_file_s_end_is_scored_once(marked: RepoTokenizer, overlap: int, tmp_path: Path) -> None:
    folder = make_repo(tmp_path / "r", [Made(FILES), Made({"f0.py": "name_0 = 7\n"})])
    found = prepared(folder, marked, load_settings(None, SHORT), phases=1, length=96, overlap=overlap)
    ends, at_the_end = Counter[str](), 0
    paths = set[str]()
    for built in found.prepared.sequences:
        if built.split != "train":
            continue
        _, weights = built.builder.arrays()
        for part in built.builder.parts:
            paths.add(part.of.path)
            following = part.at + part.end - part.start
            if part.end == len(part.of):
                ends[part.of.path] += weights[following] == 1
                at_the_end += following == len(weights) - 1
    assert len(paths) > 12 and (at_the_end > 1 or len(marked.marks.at(FILE_END)))
    assert ends == dict.fromkeys(paths, 1)
