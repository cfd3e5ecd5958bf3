"""A definition planted among the repository's files and decoys of its like, asked for by completion at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from longrepo.data.repo_tree import Tree
from longrepo.data.template import Draft, FilePiece, Sizes, write_file, written
from longrepo.data.tokenizer import FILE_END, FILE_START, RepoTokenizer
from longrepo.engines.base import Engine
from longrepo.evaluation.blocks import Material
from longrepo.evaluation.completion import tidy
from longrepo.evaluation.results import Example, Parts
from longrepo.evaluation.scoring import Ids, Measured, Row, Unit, score_both, write_both
from longrepo.utils import hashing

DECOYS = 4
_PIECE = 192  # tokens of a file shown at most, so that a depth can be met
_WORDS = (
    "harbour", "orchard", "lantern", "quarry", "meadow", "glacier", "saddle", "compass", "thistle", "anchor", "marble",
    "falcon", "copper", "ribbon", "cellar", "pepper",
)  # fmt: skip
_KINDS = ("limit", "offset", "budget", "timeout")
_FORMS = {
    "Python": (".py", "{name} ="),
    "JavaScript": (".js", "export const {name} ="),
    "TypeScript": (".ts", "export const {name} ="),
    "Go": (".go", "const {name} ="),
    "Rust": (".rs", "pub const {name}: u32 ="),
    "Java": (".java", "static final int {name} ="),
    "C": (".h", "#define {name}"),
    "C++": (".h", "#define {name}"),
    "Ruby": (".rb", "{name} ="),
}  # language → suffix of a file, and its way to define a number


@dataclass(frozen=True)
class Planted:
    """A file of one definition: `text` up to its value."""

    path: str
    text: str
    value: str


def units(material: Material, lengths: Sequence[int], depths: Sequence[int], draws: int, seed: int) -> Iterator[Unit]:
    """`draws` needles at each length and depth (percent of the context before the definition)."""
    for length in lengths:
        for depth in depths:
            for draw in range(draws):
                key = f"needle/{length}/{depth}/{draw}"
                yield Unit(key, partial(_measure, material, length, depth, draw, seed), length)


def _measure(material: Material, length: int, depth: int, draw: int, seed: int, engine: Engine) -> Measured:
    tokenizer, tree = material.tokenizer, material.repositories[draw % len(material.repositories)].trained
    needle, *decoys = _plant(tree, draw, seed)
    draft = _write(tokenizer, tree, needle, decoys, length, depth, (seed, "needle", draw))
    ids = draft.arrays()[0]
    answer = np.array(tokenizer.encode(f" {needle.value}"), np.int32)
    whole = np.concatenate([ids, answer])
    losses = score_both(engine, whole, np.arange(len(whole)) >= len(ids)).at(slice(len(ids), None))
    base, tuned = (tidy(written(tokenizer, one), 1) for one in write_both(engine, ids, len(answer) + 2))
    scores = [{"exact": float(_number(one) == needle.value)} for one in (base, tuned)]
    rows: list[Row] = []
    for part in (depth, -1):
        parts: Parts = {"depth": part, "length": length}
        rows.append(Row("needle", "exact", parts, str(draw), 1, scores[0]["exact"], scores[1]["exact"]))
        rows.append(Row("needle", "loss", parts, str(draw), len(answer), *losses.sums()))
    parts = {"depth": depth, "length": length}
    example = Example(
        "needle", parts, needle.path, "", needle.text, needle.value, "", base, tuned, scores[0], scores[1]
    )
    return Measured(rows, [example])


def _plant(tree: Tree, draw: int, seed: int) -> list[Planted]:
    """A needle and its decoys, named alike."""
    languages = [text.language for text in tree.texts.values() if text.language in _FORMS]
    suffix, form = _FORMS[max(sorted(set(languages)), key=languages.count, default="Python")]
    words = sorted(_WORDS, key=lambda word: hashing.number(seed, "needle", draw, word))
    kind = _KINDS[hashing.number(seed, "needle", draw) % len(_KINDS)]
    return [
        Planted(
            f"settings/{word}{suffix}",
            form.format(name=f"{word}_{kind}".upper()),
            str(10_000 + hashing.number(seed, "value", draw, word) % 90_000),
        )
        for word in words[: 1 + DECOYS]
    ]


def _write(
    tokenizer: RepoTokenizer,
    tree: Tree,
    needle: Planted,
    decoys: Sequence[Planted],
    length: int,
    depth: int,
    key: tuple[object, ...],
) -> Draft:
    """A context of `length` tokens at most with the answer, the needle `depth` percent down, decoys anywhere."""
    sizes = Sizes(tokenizer)
    asked = _file(tokenizer, "settings/copy" + needle.path[needle.path.rfind(".") :], f"{needle.text}")
    planted = {one: _file(tokenizer, one.path, f"{one.text} {one.value}\n") for one in (needle, *decoys)}
    ends = sizes.marks(FILE_START, FILE_END)
    room = length - len(asked) - ends - 8 - sum(len(ids) + ends for ids in planted.values())
    pieces: list[FilePiece | Planted] = []
    total = 0
    for path in sorted(tree.texts, key=lambda path: hashing.number(*key, path)):
        of = tree.texts[path]
        piece = FilePiece(of, 0, len(of) if len(of) <= _PIECE else of.cut_in(0, _PIECE)[0], (), False)
        if total + sizes.file(piece) <= room:
            pieces.append(piece)
            total += sizes.file(piece)
    for decoy in decoys:
        pieces.insert(hashing.number(*key, decoy.path) % (len(pieces) + 1), decoy)
    pieces.insert(round(len(pieces) * depth / 100), needle)
    draft = Draft(tokenizer)
    for one in pieces:
        if isinstance(one, FilePiece):
            write_file(draft, one, 0.0)
        else:
            draft.mark(FILE_START, 0.0)
            draft.plain(planted[one], 0.0)
            draft.mark(FILE_END, 0.0)
    draft.mark(FILE_START, 0.0)
    draft.plain(asked, 0.0)
    return draft


def _file(tokenizer: RepoTokenizer, path: str, text: str) -> Ids:
    return np.array(tokenizer.encode(f" {path}\n{text}"), np.int32)


def _number(text: str) -> str:
    digits = text.strip()
    return digits[: next((at for at, one in enumerate(digits) if not one.isdigit()), len(digits))]
