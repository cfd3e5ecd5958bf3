"""Builds one sequence from texts, without a repository: the public class for use from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from longrepo.config.schema import DataSettings
from longrepo.data.difficulty import NameIndex, score_difficulty
from longrepo.data.features import FeatureExtractor, Features, FileJob, Job, StepJob, inline_text, unpack_features
from longrepo.data.marks import SNIPPET_TOKENS
from longrepo.data.sequence import LongContextSequence, NotBuilt, SequenceKind
from longrepo.data.template import (
    FIM_SPLIT_TOKENS,
    BuiltSequence,
    CommitStep,
    FilePiece,
    SequenceBuilder,
    TemplateSizes,
    question_ids,
    write_file,
    write_questions,
    write_step,
)
from longrepo.data.text import TokenizedText, path_tokens
from longrepo.data.tokenizer_loading import as_repo_tokenizer
from longrepo.utils import hashing


@dataclass(frozen=True)
class Version:
    """A file's text after a commit."""

    commit: str
    message: str
    text: str


class LongContextSequenceBuilder:
    """Builds sequences of at most `max_length` tokens from texts.

    `tokenizer`: a RepoTokenizer or any fast transformers tokenizer, to which the structure tokens are added unless
    `data.structure_tokens` says `native` or `none`. A text that
    is too long gives NotBuilt, or with `truncate=True` a sequence cut between syntax nodes that still ends with its end
    token. With `pad_to_max=True` the tokens are padded to `max_length`; padding has weight 0 by its position, so that
    an end token that is also the padding token is still learnt. Difficulty is labelled by fixed thresholds, as a single
    sequence has no quantiles (`longrepo.data.difficulty.FIXED_THRESHOLDS`). Nothing is redacted.
    """

    def __init__(
        self, tokenizer: Any, max_length: int = 2048, *, data: DataSettings | None = None, seed: int = 42
    ) -> None:
        self.data = data or DataSettings()
        self.tokenizer = as_repo_tokenizer(
            tokenizer, "added" if self.data.structure_tokens == "auto" else self.data.structure_tokens, self.data.fim
        )
        self.max_length = max_length
        self.seed = seed
        self._sizes = TemplateSizes(self.tokenizer)
        self._extractor = FeatureExtractor(self.tokenizer, None, self.data.context_weight)

    def build_hierarchical_sequence(
        self,
        files: Sequence[tuple[str, str]],
        metadata_base: Mapping[str, Any] | None = None,
        *,
        pad_to_max: bool = False,
        truncate: bool = False,
    ) -> LongContextSequence | NotBuilt:
        """Build a sequence of files as (path, text), definitions first, the target last. All code is scored; the last
        file is written as fill-in-the-middle in `data.fim_share` of the cases, if the tokenizer has the tokens."""
        pieces = [FilePiece.whole(text) for text in self._tokenize(files) if len(text)]
        if not pieces:
            return NotBuilt("the files hold no text")
        key = hashing.seeded_int(self.seed, *[(piece.of.path, piece.of.text) for piece in pieces])
        fim = self.tokenizer.fim
        wants_fim = fim is not None and hashing.seeded_uniform(key, "fim") < self.data.fim_share
        room = self.max_length - self._sizes.ends - (fim.size + FIM_SPLIT_TOKENS if fim and wants_fim else 0)
        total = sum(map(self._sizes.file, pieces))
        if total > room and not truncate:
            return self._too_long(total)
        kept: list[FilePiece] = []
        for piece in pieces:
            frame = self._sizes.frame(piece.of)
            if frame >= room:
                break
            kept.append(_shorten(piece, room - frame))
            room -= self._sizes.file(kept[-1])
        if not kept:
            return self._too_long(total)
        builder = self._sizes.begin()
        for piece in kept:
            last = piece is kept[-1]
            write_file(builder, piece, self.data.context_weight, str(key) if last and wants_fim else None)
        cut = sum(piece.end for piece in pieces) - sum(piece.end for piece in kept)
        texts = [piece.of for piece in pieces]
        return self._finish(builder, "hierarchical", texts, metadata_base, pad_to_max, tokens_cut=cut)

    def build_commit_evolution_sequence(
        self,
        path: str,
        versions: Sequence[Version],
        before: str | None = None,
        metadata_base: Mapping[str, Any] | None = None,
        *,
        pad_to_max: bool = False,
        truncate: bool = False,
    ) -> LongContextSequence | NotBuilt:
        """Build a sequence of a file as it was (None: it did not exist) and its versions, oldest first, each as hunks
        with its message. Message and added rows are scored fully, the rest at `data.context_weight`."""
        context = self.data.context_weight
        texts = [before or "", *[version.text for version in versions]]
        jobs = [
            StepJob(path, version.commit, version.message, old, version.text)
            for old, version in zip(texts, versions, strict=False)
        ]
        steps = [
            CommitStep(job.commit, done.text, done.facts["message"], "")
            for job, done in zip(jobs, self._extract(jobs), strict=True)
            if len(done.text)
        ]
        if not steps:
            return NotBuilt("no version changes the file")
        state, after = self._tokenize([(path, before or ""), (path, versions[-1].text)])
        size = len(state) and self._sizes.frame(state) + len(state)
        total = size + sum(map(self._sizes.step, steps))
        if total > self.max_length - self._sizes.ends and not truncate:
            return self._too_long(total)
        room = self.max_length - self._sizes.ends - size
        kept: list[CommitStep] = []
        for step in steps:
            frame = self._sizes.step(step) - len(step.of)
            if frame >= room:
                break
            end = len(step.of) if frame + len(step.of) <= room else step.of.cut_in(0, room - frame)[0]
            kept.append(replace(step, end=end))
            room -= self._sizes.step(kept[-1])
        if not kept:
            return self._too_long(total)
        builder = self._sizes.begin()
        if len(state):
            write_file(builder, FilePiece.whole(state, target=False), context)
        for step in kept:
            write_step(builder, step, context)
        cut = sum(len(step.of) for step in steps) - sum(step.stop for step in kept)
        commits = [step.commit for step in kept]
        known = [state, after]
        return self._finish(builder, "commit_evolution", known, metadata_base, pad_to_max, commits, tokens_cut=cut)

    def build_qa_sequence(
        self,
        snippets: Sequence[tuple[str, str]],
        question: str,
        answer: str,
        metadata_base: Mapping[str, Any] | None = None,
        *,
        pad_to_max: bool = False,
        truncate: bool = False,
    ) -> LongContextSequence | NotBuilt:
        """Build a sequence of up to 16 snippets as (path, text), then a question about them; only the answer is scored
        fully. Truncation shortens the longest snippets at their end."""
        if len(snippets) > len(SNIPPET_TOKENS):
            return NotBuilt(f"{len(snippets)} snippets, but there are only {len(SNIPPET_TOKENS)} snippet tokens")
        asked = question_ids(self.tokenizer, question)
        answered = self._answer(question, answer)
        pieces = [FilePiece.whole(text, target=False) for text in self._tokenize(snippets)]

        def total() -> int:
            shown = sum(self._sizes.snippet(number, piece) for number, piece in enumerate(pieces))
            return shown + len(asked) + len(answered)

        full = total()
        if full > self.max_length - self._sizes.ends and not truncate:
            return self._too_long(full)
        while (over := total() - (self.max_length - self._sizes.ends)) > 0:
            index = max(range(len(pieces)), key=lambda at: pieces[at].end, default=-1)
            if index < 0 or pieces[index].end <= 1:
                return self._too_long(full)
            longest = pieces[index]
            # Halved at most in each round, so that one long snippet isn't emptied while others stay whole.
            pieces[index] = _shorten(longest, max(longest.end - over, longest.end // 2))
        builder = self._sizes.begin()
        write_questions(builder, pieces, [(asked, answered)], self.data.context_weight)
        texts = [piece.of for piece in pieces]
        return self._finish(builder, "qa", texts, metadata_base, pad_to_max, tokens_cut=full - total())

    def _extract(self, jobs: Sequence[Job]) -> list[Features]:
        results = self._extractor.extract(jobs)
        return [
            unpack_features(result, job.path, path_tokens(self.tokenizer, job.path))
            for job, result in zip(jobs, results, strict=True)
        ]

    def _tokenize(self, files: Sequence[tuple[str, str]]) -> list[TokenizedText]:
        return [done.text for done in self._extract([FileJob(path, text) for path, text in files])]

    def _answer(self, question: str, answer: str) -> TokenizedText:
        """Tokenize an answer; its names are those of question and answer, and it belongs to no file."""
        ids = np.array(self.tokenizer.encode(f" {answer}"), np.int32)
        return inline_text(f"{question} {answer}", ids)

    def _too_long(self, tokens: int) -> NotBuilt:
        return NotBuilt(f"too long: {tokens + 1} tokens with the end token, at most {self.max_length}", tokens)

    def _finish(
        self,
        builder: SequenceBuilder,
        kind: SequenceKind,
        texts: Sequence[TokenizedText],
        base: Mapping[str, Any] | None,
        pad: bool,
        commits: Sequence[str] = (),
        **more: Any,
    ) -> LongContextSequence:
        builder.end()
        # In a handful of files no name counts as common, but which names several of them define still matters.
        built = BuiltSequence(builder, kind, "train", "", tuple(dict.fromkeys(commits)))
        score_difficulty([built], NameIndex(ambiguous=NameIndex.of(texts).ambiguous))
        ids, weights = builder.arrays()
        metadata: dict[str, Any] = {
            "kind": kind,
            "files_included": built.files,
            "commits_included": list(built.commits),
            "language": built.language,
            "split": "train",
            "roles": dict(builder.roles),
            "curriculum_difficulty": built.difficulty,
            "difficulty_score": built.score,
            "difficulty_parts": built.parts,
            **more,
        }
        sequence = LongContextSequence(ids.tolist(), weights.astype(float).tolist(), metadata)
        if pad and len(sequence) < self.max_length:
            missing = self.max_length - len(sequence)
            sequence.tokens.extend([self.tokenizer.pad_id] * missing)
            sequence.loss_weights.extend([0.0] * missing)
        sequence.metadata = {**(base or {}), **sequence.metadata}
        return sequence


def _shorten(piece: FilePiece, room: int) -> FilePiece:
    if piece.end - piece.start <= room:
        return piece
    return replace(piece, end=piece.of.cut_in(piece.start, piece.start + room)[0])
