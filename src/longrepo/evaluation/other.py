"""What was forgotten: the plain loss of another repository's files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from longrepo.engines.base import Engine
from longrepo.evaluation.measured import Measured, Row, Unit
from longrepo.evaluation.scoring import Ids, score_both
from longrepo.evaluation.trees import Trees
from longrepo.sequences import chance
from longrepo.sequences.text import PROSE

_LEAST = 64  # tokens of a file worth scoring


def units(trees: Trees, commit: str, length: int, wanted: int, seed: int) -> Iterator[Unit]:
    """The beginning of `wanted` files of code, `length` tokens at most each, as plain text without marks."""
    texts = trees.at(commit).texts
    code = [path for path, text in texts.items() if len(text) >= _LEAST and text.language not in PROSE]
    name = trees.repository.name
    for path in sorted(code, key=lambda path: chance.number(seed, "other", path))[:wanted]:
        ids = texts[path].ids[:length]
        yield Unit(f"other/{length}/{name}/{commit[:12]}/{path}", partial(_measure, name, path, ids), length)


def _measure(name: str, path: str, ids: Ids, engine: Engine) -> Measured:
    both = score_both(engine, ids, np.arange(len(ids)) > 0)
    return Measured([Row("other", "loss", {"repository": name}, path, len(ids) - 1, *both.sums())])
