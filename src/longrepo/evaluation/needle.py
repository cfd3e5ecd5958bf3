"""Needle test: a definition planted among the repository's files and similar decoys, and asked for at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from longrepo.data.marks import FILE_END, FILE_START
from longrepo.data.repo_tree import RepoTree
from longrepo.data.template import FilePiece, SequenceBuilder, TemplateSizes, completion_text, write_file
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.engines.base import Engine
from longrepo.evaluation.blocks import EvalData
from longrepo.evaluation.completion import first_rows
from longrepo.evaluation.results import Example, FigureParts
from longrepo.evaluation.scoring import IdArray, Measurement, MeasurementRow, Measurements, generate_both, score_both
from longrepo.utils import hashing

DECOY_COUNT = 4
_PIECE_TOKENS = 192  # tokens shown of a file: with short pieces the needle can be placed near its depth
_WORDS = (
    "harbour", "orchard", "lantern", "quarry", "meadow", "glacier", "saddle", "compass", "thistle", "anchor", "marble",
    "falcon", "copper", "ribbon", "cellar", "pepper",
)  # fmt: skip
_NAME_ENDINGS = ("limit", "offset", "budget", "timeout")
_LANGUAGE_FORMS = {
    "Python": (".py", "{name} ="),
    "JavaScript": (".js", "export const {name} ="),
    "TypeScript": (".ts", "export const {name} ="),
    "Go": (".go", "const {name} ="),
    "Rust": (".rs", "pub const {name}: u32 ="),
    "Java": (".java", "static final int {name} ="),
    "C": (".h", "#define {name}"),
    "C++": (".h", "#define {name}"),
    "Objective-C": (".h", "#define {name}"),
    "Ruby": (".rb", "{name} ="),
    "PHP": (".php", "<?php const {name} ="),
    "C#": (".cs", "public const int {name} ="),
    "Kotlin": (".kt", "const val {name} ="),
    "Swift": (".swift", "let {name} ="),
    "Scala": (".scala", "val {name} ="),
    "Groovy": (".groovy", "final int {name} ="),
    "Dart": (".dart", "const {name} ="),
    "Lua": (".lua", "{name} ="),
    "Perl": (".pm", "use constant {name} =>"),
    "R": (".R", "{name} <-"),
    "Julia": (".jl", "const {name} ="),
    "Zig": (".zig", "pub const {name} ="),
    "Nim": (".nim", "const {name}* ="),
    "D": (".d", "enum {name} ="),
    "Solidity": (".sol", "uint constant {name} ="),
    "GDScript": (".gd", "const {name} ="),
    "Makefile": (".mk", "{name} :="),
    "Terraform": (".tf", "{name} ="),
}  # language → file suffix, and how the language defines a number


@dataclass(frozen=True)
class PlantedDefinition:
    """A file of one definition: `text` up to its value."""

    path: str
    text: str
    value: str


def needle_measurements(
    data: EvalData, lengths: Sequence[int], depths: Sequence[int], draws: int, seed: int
) -> Iterator[Measurement]:
    """Yield `draws` needles at each length and depth (percent of the context before the definition)."""
    for length in lengths:
        for depth in depths:
            for draw in range(draws):
                key = f"needle/{length}/{depth}/{draw}"
                yield Measurement(key, partial(_measure_needle, data, length, depth, draw, seed), length)


def _measure_needle(data: EvalData, length: int, depth: int, draw: int, seed: int, engine: Engine) -> Measurements:
    tokenizer, repository = data.tokenizer, data.repositories[draw % len(data.repositories)]
    tree, sizes = repository.trained, TemplateSizes(tokenizer, repository.facts.name)
    needle, *decoys = _make_needle(tree, draw, seed)
    builder = _write_context(sizes, tree, needle, decoys, length, depth, (seed, "needle", draw))
    ids = builder.arrays()[0]
    answer = np.array(tokenizer.encode(f" {needle.value}"), np.int32)
    whole = np.concatenate([ids, answer])
    losses = score_both(engine, whole, np.arange(len(whole)) >= len(ids)).at(slice(len(ids), None))
    base, tuned = (
        first_rows(completion_text(tokenizer, one), 1) for one in generate_both(engine, ids, len(answer) + 2)
    )
    scores = [{"exact": float(_first_number(one) == needle.value)} for one in (base, tuned)]
    rows: list[MeasurementRow] = []
    for part in (depth, -1):
        parts: FigureParts = {"depth": part, "length": length}
        rows.append(MeasurementRow("needle", "exact", parts, str(draw), 1, scores[0]["exact"], scores[1]["exact"]))
        rows.append(MeasurementRow("needle", "loss", parts, str(draw), len(answer), *losses.sums()))
    parts = {"depth": depth, "length": length}
    example = Example(
        "needle", parts, needle.path, "", needle.text, needle.value, "", base, tuned, scores[0], scores[1]
    )
    return Measurements(rows, [example])


def _make_needle(tree: RepoTree, draw: int, seed: int) -> list[PlantedDefinition]:
    """Return a needle and its decoys, named alike."""
    languages = [text.language for text in tree.texts.values() if text.language in _LANGUAGE_FORMS]
    suffix, form = _LANGUAGE_FORMS[max(sorted(set(languages)), key=languages.count, default="Python")]
    words = sorted(_WORDS, key=lambda word: hashing.seeded_int(seed, "needle", draw, word))
    kind = _NAME_ENDINGS[hashing.seeded_int(seed, "needle", draw) % len(_NAME_ENDINGS)]
    return [
        PlantedDefinition(
            f"settings/{word}{suffix}",
            form.format(name=f"{word}_{kind}".upper()),
            str(10_000 + hashing.seeded_int(seed, "value", draw, word) % 90_000),
        )
        for word in words[: 1 + DECOY_COUNT]
    ]


def _write_context(
    sizes: TemplateSizes,
    tree: RepoTree,
    needle: PlantedDefinition,
    decoys: Sequence[PlantedDefinition],
    length: int,
    depth: int,
    key: tuple[object, ...],
) -> SequenceBuilder:
    """Write a context that takes at most `length` tokens with the answer: the needle `depth` percent down, decoys
    anywhere."""
    tokenizer = sizes.tokenizer
    asked = _file_piece(tokenizer, "settings/copy" + needle.path[needle.path.rfind(".") :], f"{needle.text}")
    planted = {one: _file_piece(tokenizer, one.path, f"{one.text} {one.value}\n") for one in (needle, *decoys)}
    ends = sizes.marks(FILE_START, FILE_END)
    room = length - len(asked) - ends - 7 - sizes.ends - sum(len(ids) + ends for ids in planted.values())
    pieces: list[FilePiece | PlantedDefinition] = []
    total = 0
    for path in sorted(tree.texts, key=lambda path: hashing.seeded_int(*key, path)):
        of = tree.texts[path]
        piece = FilePiece(of, 0, len(of) if len(of) <= _PIECE_TOKENS else of.cut_in(0, _PIECE_TOKENS)[0], (), False)
        if total + sizes.file(piece) <= room:
            pieces.append(piece)
            total += sizes.file(piece)
    for decoy in decoys:
        pieces.insert(hashing.seeded_int(*key, decoy.path) % (len(pieces) + 1), decoy)
    pieces.insert(round(len(pieces) * depth / 100), needle)
    builder = sizes.begin()
    for one in pieces:
        if isinstance(one, FilePiece):
            write_file(builder, one, 0.0)
        else:
            builder.mark(FILE_START, 0.0)
            builder.plain(planted[one], 0.0)
            builder.mark(FILE_END, 0.0)
    builder.mark(FILE_START, 0.0)
    builder.plain(asked, 0.0)
    return builder


def _file_piece(tokenizer: RepoTokenizer, path: str, text: str) -> IdArray:
    return np.array(tokenizer.encode(tokenizer.marks.path_text(path) + text), np.int32)


def _first_number(text: str) -> str:
    digits = text.strip()
    return digits[: next((at for at, one in enumerate(digits) if not one.isdigit()), len(digits))]
