"""The training sequences of each arm, made once for each repository and kept."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from arms import OURS, Arm, folder_of

from longrepo.config.schema import Settings
from longrepo.data.dataset import SEQUENCES_FOLDER, SequenceFile, read_sequences, write_sequences
from longrepo.data.metadata import tokenizer_of
from longrepo.data.packing import phase_bands
from longrepo.data.prepare import PreparationTools, RepositorySpec, prepare, write_prepared
from longrepo.data.repo_tree import RepoTrees
from longrepo.data.rows import SequenceRow
from longrepo.data.template import FilePiece, SequenceBuilder, TemplateSizes, write_file
from longrepo.data.text import TokenizedText
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer
from longrepo.evaluation.blocks import EvalRepository
from longrepo.repository.languages import PROSE_LANGUAGES
from longrepo.repository.repository import Repository
from longrepo.utils import hashing
from longrepo.utils.cache import SqliteCache, cache_folder

LENGTH = 2048  # tokens of a plain chunk
_LEAST = 64  # tokens: a shorter sequence of a single file isn't worth its marks


def clone(work: Path, name: str, commit: str, source: str | None) -> Path:
    """A clone of a public repository that holds the commit, from `source` (a local path) or from its public place."""
    folder = work / "repos" / name.rpartition("/")[2]
    if not folder.exists():
        partial = folder.with_name(f".{folder.name}.part")
        origin = source or f"https://github.com/{name}"
        subprocess.run(["git", "clone", "--quiet", "--no-checkout", origin, partial], check=True)
        subprocess.run(["git", "-C", partial, "update-ref", "--no-deref", "HEAD", commit], check=True)
        partial.rename(folder)
    return folder


def sequences_of(work: Path, repository: Path, commit: str, arm: Arm) -> SequenceFile:
    """The sequences of an arm, made now if they aren't there."""
    place = folder_of(work, "data") / repository.name / arm.name / SEQUENCES_FOLDER
    if place.exists():
        return read_sequences(place)
    if arm.made == "longrepo":
        return _prepared(place, repository, commit, arm)
    start = sequences_of(work, repository, commit, _prepared_alike(arm))
    settings = arm.prepared_with()
    with_held_out = (_row(start, at) for at in range(len(start)))
    if arm.made == "plain":
        texts = _texts(start, repository, settings)
        rows = [*_plain(texts, tokenizer_of(start.header)), *(row for row in with_held_out if row.split != "train")]
    elif arm.made == "single_file":
        texts = _texts(start, repository, settings)
        kept = (row for row in with_held_out if row.split != "train" or row.kind != "hierarchical")
        rows = [*_single(texts, tokenizer_of(start.header), settings), *kept]
    elif arm.made == "shuffled":
        rows = _shuffled(with_held_out)
    elif arm.made == "code":
        rows = [row for row in with_held_out if row.split != "train" or row.language not in PROSE_LANGUAGES]
    else:
        rows = _in_ranges(with_held_out, settings)
    write_sequences(place, rows, replace(start.header, made_by=f"benchmarks/benefit: {arm.name}"))
    return read_sequences(place)


def _prepared_alike(arm: Arm) -> Arm:
    """What an arm is made from that no setting alone can make: ours, with its settings."""
    if arm.data:
        return replace(arm, name=f"{arm.name}-prepared", made="longrepo")
    return OURS if arm.marks else replace(OURS, name="text_marks", marks=False)


def _prepared(place: Path, repository: Path, commit: str, arm: Arm) -> SequenceFile:
    settings = arm.prepared_with()
    tokenizer = load_tokenizer(settings.model.name, None, settings.data.structure_tokens)
    cache = SqliteCache(cache_folder())
    try:
        with Repository.open(repository) as opened:
            origin = RepositorySpec(opened, commit)
            write_prepared(place.parent, prepare([origin], settings, PreparationTools(tokenizer, cache), 3, LENGTH))
    finally:
        cache.close()
    return read_sequences(place)


def _row(file: SequenceFile, at: int) -> SequenceRow:
    rest = file.row(at)
    parts = rest["difficulty_parts"]
    return SequenceRow(
        **{
            **rest,
            "input_ids": file.tokens(at),
            "loss_weights": file.weights(at),
            "difficulty_parts": json.loads(parts) if isinstance(parts, str) else parts,
        }
    )


def _texts(file: SequenceFile, repository: Path, settings: Settings) -> dict[str, TokenizedText]:
    """The files where training ends, redacted as prepared, without those held out."""
    facts = file.header.repositories[0]
    cache = SqliteCache(cache_folder())
    trees = RepoTrees(Repository.open(repository), facts.head, tokenizer_of(file.header), settings, cache)
    try:
        return EvalRepository(facts, trees).texts
    finally:
        trees.close()
        cache.close()


def _plain(texts: dict[str, TokenizedText], tokenizer: RepoTokenizer) -> list[SequenceRow]:
    """Code alone, each file cut every 2,048 tokens, an end token where a file ends."""
    rows: list[SequenceRow] = []
    for text in texts.values():
        if text.language in PROSE_LANGUAGES:
            continue
        ids = np.append(text.ids, tokenizer.end_id).astype(np.int32)
        for start in range(0, len(ids), LENGTH):
            piece = ids[start : start + LENGTH]
            if len(piece) > 1:
                rows.append(_as_row(piece, np.ones(len(piece), np.float32), "window", text, "easy"))
    return sorted(rows, key=lambda row: hashing.seeded_int("plain", row.files[0], row.input_ids[:64].tobytes()))


def _single(texts: dict[str, TokenizedText], tokenizer: RepoTokenizer, settings: Settings) -> Iterator[SequenceRow]:
    """Each file alone at each phase's length, cut as ours are, fill-in-the-middle on as many."""
    data, sizes = settings.data, TemplateSizes(tokenizer)
    for band in phase_bands(settings, 3, LENGTH)[0]:
        for path, text in texts.items():
            at, room = 0, band.cap - sizes.frame(text) - 4
            while at < len(text):
                end = len(text) if len(text) - at <= room else text.cut_in(at, at + room, 3 * room // 4)[0]
                draft = SequenceBuilder(tokenizer)
                key = ("single", band.phase, path, at)
                fim_key = str(hashing.seeded_int(*key)) if hashing.seeded_uniform(*key) < data.fim_share else None
                write_file(draft, FilePiece(text, at, end), data.context_weight, fim_key)
                draft.end()
                at = end
                if len(draft) > max(band.floor, _LEAST):
                    yield _as_row(*draft.arrays(), "hierarchical", text, "medium")


def _as_row(ids: np.ndarray, weights: np.ndarray, kind: str, of: TokenizedText, difficulty: str) -> SequenceRow:
    weights[0] = 0
    return SequenceRow(ids, weights, kind, difficulty, 0.5, {}, (of.path,), (), of.language, "train", "")


def _shuffled(rows: Iterator[SequenceRow]) -> list[SequenceRow]:
    """All equally difficult, in an order that is chance's."""
    alike = [replace(row, difficulty="easy", difficulty_score=0.0) for row in rows]
    return sorted(
        alike, key=lambda row: (row.split != "train", hashing.seeded_int("shuffled", row.input_ids.tobytes()))
    )


def _in_ranges(rows: Iterator[SequenceRow], settings: Settings) -> list[SequenceRow]:
    chosen, _ = phase_bands(settings, 3, LENGTH)
    return [
        row
        for row in rows
        if row.split != "train" or any(band.low <= len(row.input_ids) <= band.cap for band in chosen)
    ]
