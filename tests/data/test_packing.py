"""Files into sequences: nothing lost, cut between syntax nodes, what they depend on in front of them as context."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from git_helper import make_repo
from small_packages import module
from whole import Case, prepared, shown

from longrepo.config.loader import load_settings
from longrepo.data.bm25 import BM25Index
from longrepo.data.packing import (
    NO_ROOM_REASON,
    Band,
    ContextFiller,
    arrange_pieces,
    context_piece,
    order_by_relation,
    pack_files,
)
from longrepo.data.template import FilePiece, TemplateSizes
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.used_context import UsedContext
from longrepo.repository.imports.graph import ImportGraph

Read = Callable[[str, str], TokenizedText]
WORDS = [
    f"{one}{other}" for one in ("ash", "bay", "elm", "fir", "oak", "yew") for other in ("ford", "gate", "wick", "mere")
]


def wide() -> dict[str, str]:
    """48 modules in 4 folders; each imports the one before it in its folder. What it takes to fill every phase."""
    files = {}
    for number, word in enumerate([*WORDS, *(f"{word}side" for word in WORDS)]):
        folder, before = f"package/part{number % 4}", number - 4
        names = [*WORDS, *(f"{word}side" for word in WORDS)]
        text = module(word, names[before] if before >= 0 else None, 3 + number % 9)
        files[f"{folder}/{word}.py"] = text.replace("from package.", f"from package.part{number % 4}.")
    return files


@pytest.fixture(scope="module")
def texts(read: Read) -> dict[str, TokenizedText]:
    return {path: read(path, text) for path, text in sorted(wide().items())}


@pytest.mark.parametrize("cap", [64, 150, 512, 1024, 5000])
def test_every_token_stands_in_one_piece_in_order(
    texts: dict[str, TokenizedText], tokenizer: RepoTokenizer, cap: int
) -> None:
    sizes = TemplateSizes(tokenizer)
    result = pack_files(list(texts.values()), Band(1, 0, cap // 2, cap), sizes, 4)
    pieces = [piece for packed in result.packs for piece in packed]
    for path, text in texts.items():
        own = [(piece.start, piece.end) for piece in pieces if piece.of.path == path]
        assert [start for start, _ in own] == [0, *(end for _, end in own[:-1])] and own[-1][1] == len(text)
    assert all(packed for packed in result.packs) and not result.dropped
    assert max(sum(map(sizes.file, packed)) for packed in result.packs) <= cap - 4
    assert sum(result.cuts.values()) == len(pieces) - len(texts)


def test_cuts_are_made_between_syntax_nodes(texts: dict[str, TokenizedText], tokenizer: RepoTokenizer) -> None:
    result = pack_files(list(texts.values()), Band(1, 0, 512, 1024), TemplateSizes(tokenizer), 4)
    assert result.cuts["syntax"] >= 0.9 * sum(result.cuts.values()) > 10
    ends = [piece for packed in result.packs for piece in packed if piece.end < len(piece.of)]
    between = [
        piece for piece in ends if piece.of.slice_text(piece.end, len(piece.of)).lstrip("\n")[:4] in ("def ", "from")
    ]
    assert len(between) >= result.cuts["syntax"]


def test_a_later_piece_repeats_the_imports_it_uses_and_what_encloses_it(read: Read, tokenizer: RepoTokenizer) -> None:
    body = "".join(f"    def step_{n}(self) -> int:\n        return {n} + {n} * os.getpid()\n\n" for n in range(40))
    of = read("a.py", f"import os\nfrom pathlib import Path\n\n\nclass Walker:\n    start = 3\n\n{body}")
    result = pack_files([of], Band(1, 0, 300, 600), TemplateSizes(tokenizer), 4)
    (first,), *later = result.packs
    assert not first.head and len(later) > 1
    for (piece,) in later:
        shown = "".join(of.slice_text(start, end) for start, end in [*piece.head, (piece.start, piece.end)])
        assert [line for line in shown.split("\n") if line.strip()][:2] == ["import os", "class Walker:"]
        assert "pathlib" not in shown
        assert "class Walker:\n" in shown and shown.index("def step_") < shown.index("return")
        assert sum(end - start for start, end in piece.head) <= 600 // 12


def test_a_path_that_leaves_no_room_is_counted(read: Read, tokenizer: RepoTokenizer) -> None:
    of = read("a/very/long/path/that/takes/more/tokens/than/there/are.py", "x = 1\n" * 20)
    assert pack_files([of], Band(1, 0, 10, 20), TemplateSizes(tokenizer), 4).dropped == {NO_ROOM_REASON: len(of)}


def test_one_line_longer_than_a_sequence_is_cut_between_tokens(read: Read, tokenizer: RepoTokenizer) -> None:
    of = read("a.txt", "word and " * 2000)
    result = pack_files([of], Band(1, 0, 128, 256), TemplateSizes(tokenizer), 4)
    assert set(result.cuts) == {"token"}
    assert sum(piece.end - piece.start for packed in result.packs for piece in packed) == len(of)


def test_a_walk_goes_on_to_what_is_near(texts: dict[str, TokenizedText]) -> None:
    paths = list(texts)
    near = {path: [other for other in paths[max(0, at - 1) : at + 2] if other != path] for at, path in enumerate(paths)}
    order = order_by_relation(paths, near.__getitem__, 7)
    assert sorted(order) == paths and order == order_by_relation(paths[::-1], near.__getitem__, 7)
    assert order != order_by_relation(paths, near.__getitem__, 8)
    folders = [path.rpartition("/")[0] for path in order]
    assert sum(one != other for one, other in pairwise(folders)) <= 6


def piece_of(of: TokenizedText) -> FilePiece:
    return FilePiece.whole(of)


def completer(
    texts: dict[str, TokenizedText],
    tokenizer: RepoTokenizer,
    cap: int,
    negatives: float = 0.0,
    related: str = "",
    floor: int = 0,
) -> ContextFiller:
    imports = {path: (other,) for other, path in zip(texts, [*texts][1:], strict=False)}
    near = [path for path in texts if related and related in path]
    used = UsedContext(texts, lambda: BM25Index(list(texts.values())))
    return ContextFiller(
        Band(1, floor, cap // 2, cap),
        TemplateSizes(tokenizer),
        used,
        ImportGraph(imports),
        lambda _: near,
        negatives,
        1,
    )


def test_what_the_first_half_uses_stands_in_front(texts: dict[str, TokenizedText], tokenizer: RepoTokenizer) -> None:
    own = texts[next(path for path, text in texts.items() if "from package" in text.text)]
    used = next(
        text
        for text in texts.values()
        if text is not own and own.text.count(f" {text.path[:-3].rpartition('/')[2]}_step_0")
    )
    pieces = completer(texts, tokenizer, len(own) + 600).complete([piece_of(own)], 4)
    signature = next(piece for piece in pieces if piece.of is used)
    assert pieces[-1].of is own and not signature.target
    said = "".join(used.slice_text(*one) for one in [*signature.head, (signature.start, signature.end)])
    assert "_step_0(" in said


@pytest.mark.parametrize("negatives", [0.0, 1.0])
def test_a_stranger_joins_only_where_hard_negatives_are_wanted(
    texts: dict[str, TokenizedText], tokenizer: RepoTokenizer, negatives: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("longrepo.data.used_context.SIMILAR_PIECES", 0)
    own = next(iter(texts.values()))
    found = completer(texts, tokenizer, len(own) + 700, negatives, "part3", len(own) + 690)
    added = [piece.of.path for piece in found.complete([piece_of(own)], 4)][:-1]
    near = [path for path in texts if "part3" in path]
    assert (near[-1] in added) == bool(negatives)
    assert near[0] in added


def test_files_of_no_use_only_fill_a_sequence_that_is_too_short_for_its_phase(
    texts: dict[str, TokenizedText], tokenizer: RepoTokenizer
) -> None:
    own = next(iter(texts.values()))
    sizes = TemplateSizes(tokenizer)
    alone = sizes.file(piece_of(own))
    with_floor = [
        sum(map(sizes.file, completer(texts, tokenizer, alone + 700, 0, "part3", floor).complete([piece_of(own)], 4)))
        for floor in (0, alone - 1, alone + 600)
    ]
    assert alone <= with_floor[0] == with_floor[1] < alone + 600 < with_floor[2]


def test_context_leaves_the_share_of_targets_that_a_sequence_must_have(read: Read, tokenizer: RepoTokenizer) -> None:
    texts = {f"b{n}.py": read(f"b{n}.py", "tiny_thing = 1\nother = 2\n" * 90) for n in range(2)}
    own, sizes = read("a.py", "tiny_thing = 3\ntiny_thing = 4\n"), TemplateSizes(tokenizer)
    pieces = completer({"a.py": own, **texts}, tokenizer, 4096, 0, "b").complete([piece_of(own)], 4)
    assert len(pieces) > 1 and len(own) >= 0.02 * (sum(map(sizes.file, pieces)) + 4)


@pytest.mark.parametrize("cap", [600, 1024, 4096])
def test_completed_sequences_never_pass_the_cap(
    texts: dict[str, TokenizedText], tokenizer: RepoTokenizer, cap: int
) -> None:
    sizes, found = TemplateSizes(tokenizer), completer(texts, tokenizer, cap, 0.5, "part1")
    for own in pack_files(list(texts.values()), Band(1, 0, cap // 2, cap), sizes, cap // 8).packs:
        pieces = found.complete(own, 4)
        assert sum(map(sizes.file, own)) <= sum(map(sizes.file, pieces)) <= cap - 4
        assert len({piece.of.path for piece in pieces}) == len(pieces)
        assert [piece for piece in pieces if piece.target] == own


def test_context_keeps_its_order_before_targets_whose_definitions_come_first(texts: dict[str, TokenizedText]) -> None:
    paths = list(texts)
    rank = {path: 100 - at for at, path in enumerate(paths)}
    some = [FilePiece.whole(texts[path], target=at not in (1, 2)) for at, path in enumerate(paths[:6])]
    order = [piece.of.path for piece in arrange_pieces(list(some), rank, 0.0, "key")]
    assert order == [paths[1], paths[2], paths[5], paths[4], paths[3], paths[0]]
    others = {tuple(piece.of.path for piece in arrange_pieces(list(some), rank, 1.0, n)) for n in range(20)}
    assert tuple(paths[:6]) in others and len(others) > 5
    assert all(sorted(one) == paths[:6] for one in others)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory, tokenizer: RepoTokenizer) -> Case:
    settings = load_settings(None, ["data.random_order_share=0", "data.hard_negative_share=1"])
    return prepared(make_repo(tmp_path_factory.mktemp("wide") / "wide", [wide()]), tokenizer, settings)


def test_phases_are_filled_and_within_their_ranges(case: Case) -> None:
    for band in case.prepared.header.bands:
        lengths = [len(row.input_ids) for row in case.of("train", band["phase"])]
        assert len(lengths) > 5 and max(lengths) <= band["cap"]
        assert sum(lengths) >= 0.9 * band["cap"] * len(lengths)
        within = sum(length >= band["low"] for length in lengths)
        assert within >= 0.85 * len(lengths)
        counts = case.prepared.header.counts["train"][str(band["phase"])]
        assert counts["within_range"] == within and counts["tokens"] == sum(lengths)


def test_context_has_context_weight_and_targets_have_full_weight(case: Case, tokenizer: RepoTokenizer) -> None:
    with_context = 0
    for built, row in zip(case.prepared.sequences, case.rows, strict=True):
        if row.split != "train" or row.kind != "hierarchical":
            continue
        assert {round(weight, 4) for weight in row.loss_weights.tolist()} <= {0.0, 0.1, 1.0}
        assert not row.loss_weights[0]
        gap = np.flatnonzero(row.input_ids == tokenizer.id("<fim_prefix>"))
        for part in built.builder.parts:
            span = slice(max(1, part.at), part.at + part.end - part.start)
            if len(gap) and part.at > gap[0]:
                continue  # its texts are tokenized apart
            assert row.input_ids[part.at : span.stop].tolist() == part.of.ids[part.start : part.end].tolist()
            assert row.loss_weights[span] == pytest.approx(1.0 if part.target else 0.1)
        own = {part.of.path for part in built.builder.parts if part.target}
        with_context += any(part.of.path not in own for part in built.builder.parts)
    assert with_context > 0.8 * len(case.of("train", kind="hierarchical"))


def test_lines_of_context_never_run_together(case: Case, tokenizer: RepoTokenizer) -> None:
    lines = {line for text in wide().values() for line in text.split("\n")}
    for row in case.of("train", kind="hierarchical"):
        for section in shown(tokenizer, row).split("<|FILE_START|> ")[1:]:
            path, _, code = section.partition("\n")
            code = code.partition("<|FILE_END|>")[0].removesuffix("<|endoftext|>")
            assert path in wide()
            if "<fim_" not in code:
                assert {line.rstrip() for line in code.split("\n")[:-1]} <= lines, path


def test_definitions_stand_before_what_uses_them(case: Case) -> None:
    names = [path.rpartition("/")[2] for path in wide()]
    place = {path: names.index(path.rpartition("/")[2]) // 4 for path in wide()}  # in its folder's line of imports
    pairs = ordered = 0
    for built in case.prepared.sequences:
        if built.kind == "hierarchical" and built.split == "train":
            targets = list(dict.fromkeys(part.of.path for part in built.builder.parts if part.target))
            for one, other in pairwise(targets):
                if one.rpartition("/")[0] == other.rpartition("/")[0]:
                    pairs += 1
                    ordered += place[one] < place[other]
    assert pairs > 20 and ordered == pairs


def test_fill_in_the_middle_gives_the_piece_back(case: Case, tokenizer: RepoTokenizer) -> None:
    files, found = wide(), 0
    for row in case.of("train", kind="hierarchical"):
        text = shown(tokenizer, row)
        if "<fim_prefix>" not in text:
            continue
        found += 1
        path, _, code = text.rpartition("<|FILE_START|> ")[2].partition("\n")
        head, _, rest = code.removesuffix("<|endoftext|>").partition("<fim_prefix>")
        prefix, _, rest = rest.partition("<fim_suffix>")
        suffix, _, middle = rest.partition("<fim_middle>")
        whole = prefix + middle + suffix if prefix else middle + suffix
        assert middle and whole in files[path]
        assert all(line in files[path].split("\n") for line in head.split("\n"))
        assert not row.loss_weights[row.input_ids == tokenizer.id("<fim_middle>")].any()
        assert row.loss_weights[-1] == 1 and "<|FILE_END|>" not in code
    accounts = case.prepared.header.accounts.values()
    assert found == sum(account["fim"] for account in accounts) > 10


def test_an_unrelated_file_is_shown_behind_its_licence_and_a_cut_one_behind_its_imports(read: Read) -> None:
    licence, imports = "# Copyright 2020 Somebody.\n\n", "import one\nimport two\n\n"
    body = "".join(f"def step_{n}(value):\n    return value + {n}\n\n\n" for n in range(20))
    of = read("a.py", licence + imports + body)
    for room, begins, ends in ((len(of), "import one", True), (len(of) // 2, "def step_0", False)):
        piece = context_piece(of, room)
        text = of.slice_text(piece.start, piece.end)
        assert text.startswith(begins) and piece.ends == ends and piece.size <= room and not piece.target
    for text in (licence, imports, body):
        whole = read("b.py", text)
        assert context_piece(whole, len(whole)) == FilePiece.whole(whole, target=False)
