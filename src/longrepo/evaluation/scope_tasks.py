"""Tasks on the lines of held-out blocks, behind related files: middles at syntax scopes, and calls of the repository's
own functions.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from longrepo.data.text import TokenizedText, split_at
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.evaluation.blocks import EvalData, HeldOutBlock
from longrepo.evaluation.completion import first_rows, similarity
from longrepo.evaluation.context_loss import TargetSpan, lay_out_fim_prompt, lay_out_prompt
from longrepo.evaluation.results import FigureParts
from longrepo.evaluation.task_points import TaskPoint, TaskPrompt, in_turns, shown_after, shown_before
from longrepo.repository.scopes import SCOPES, CallSpan, ScopeSpan, call_spans, scope_spans
from longrepo.utils import hashing
from longrepo.utils.hashing import name_hash

_MAX_SCOPE_ROWS = 8
_MAX_ARGUMENT_CHARACTERS = 160
CALL_PARTS = ("callee", "arguments")


@dataclass(frozen=True)
class HeldOutSpans:
    """What can be asked for in a block: spans of held-out rows, and calls of the repository's own functions with the
    place of their definition (`cross_file` or `in_file`)."""

    held: HeldOutBlock
    spans: Sequence[ScopeSpan]
    calls: Sequence[tuple[CallSpan, str]]


def held_out_spans(data: EvalData) -> list[HeldOutSpans]:
    """Return what can be asked for in each block; in their order, so that each tree is read once."""
    return [HeldOutSpans(held, list(_spans_of(held)), list(_calls_of(held))) for held in data.held]


def _spans_of(held: HeldOutBlock) -> Iterator[ScopeSpan]:
    """Yield the spans of held-out rows, each once: by the narrowest scope that it is one of."""
    of, rows = held.target.of, _HeldRows(held)
    widest_first = sorted(scope_spans(of.text, of.language), key=lambda one: -SCOPES.index(one.scope))
    for one in {(one.start, one.end): one for one in widest_first}.values():
        everywhere = one.scope == "identifier" and name_hash(of.text[one.start : one.end]) in held.tree.common
        if rows.hold(one.start, one.end) and not everywhere:
            yield one


def _calls_of(held: HeldOutBlock) -> Iterator[tuple[CallSpan, str]]:
    of, tree, rows = held.target.of, held.tree, _HeldRows(held)
    calls = [one for one in call_spans(of.text, of.language) if rows.hold(one.start, max(one.end, one.last))]
    before = tree.texts.get(of.path) if calls else None
    own = {*of.defines.tolist(), *(before.defines.tolist() if before else ())}
    for call in calls:
        name = name_hash(call.name)
        if name in tree.common:  # a name of every other file says little, and is often a library's, too
            continue
        if name in own:
            yield call, "in_file"
        elif name in tree.defined_in and name not in tree.ambiguous:
            yield call, "cross_file"


def _by_group(
    blocks: Sequence[HeldOutSpans], points: Callable[[HeldOutSpans], Iterator[TaskPoint]]
) -> list[tuple[str, Iterator[TaskPoint]]]:
    groups: defaultdict[str, list[HeldOutSpans]] = defaultdict(list)
    for one in blocks:
        groups[one.held.group].append(one)
    return [(group, (point for one in some for point in points(one))) for group, some in groups.items()]


def fim_points(data: EvalData, blocks: Sequence[HeldOutSpans], scope: str, wanted: int, seed: int) -> list[TaskPoint]:
    """Return up to `wanted` middles of a scope, all of whose lines that count are held out."""
    points = _by_group(blocks, partial(_scope_points, data.tokenizer, scope, seed))
    return in_turns(points, wanted, seed, "scope", scope)


def _scope_points(tokenizer: RepoTokenizer, scope: str, seed: int, block: HeldOutSpans) -> Iterator[TaskPoint]:
    held, of = block.held, block.held.target.of
    spans = [one for one in block.spans if one.scope == scope]
    for span in sorted(spans, key=lambda one: hashing.seeded_int(seed, held.key, scope, one.start)):
        wanted = of.text[span.start : span.end]
        yield TaskPoint(
            measure="fim",
            key=f"{held.key}/{scope}/{span.start}-{span.end}",
            parts=({"scope": scope}, {"scope": "all"}),
            group=held.group,
            path=of.path,
            commit=held.commit,
            before=shown_before(of, span.start),
            wanted=wanted,
            after=shown_after(of, span.end),
            lay_out=partial(_lay_out_middle, tokenizer, held, span, seed),
            read=partial(first_rows, rows=wanted.count("\n") + 1),
            judge=partial(_judge_middle, first_rows(wanted, wanted.count("\n") + 1)),
        )


def _judge_middle(wanted: str, written: str) -> Mapping[str, float]:
    scores = similarity(wanted, written)
    return {"exact": scores["exact"], "edit": scores["edit"]}


def _lay_out_middle(
    tokenizer: RepoTokenizer, held: HeldOutBlock, span: ScopeSpan, seed: int, length: int
) -> TaskPrompt | None:
    of = split_at(tokenizer, held.target.of, (span.start, span.end))
    place = TargetSpan(held, of, of.token_at(span.start), of.token_at(span.end))
    layout = lay_out_fim_prompt(place, length, "related", seed, tokenizer)
    return None if layout is None else TaskPrompt.of(layout.ids, of.ids[place.at : place.end])


class _HeldRows:
    """The rows of a block's file that are held out, by characters."""

    def __init__(self, held: HeldOutBlock) -> None:
        of = held.target.of
        self._starts = [0, *(match.end() for match in re.finditer("\n", of.text))]
        self._held = set(held.rows)
        self._counts = of.row_hashes

    def hold(self, start: int, end: int) -> bool:
        """Whether every row of a span that is long enough to count is held out, and there is one."""
        first, last = (bisect_right(self._starts, at) - 1 for at in (start, max(start, end - 1)))
        rows = range(first, last + 1)
        return (
            len(rows) <= _MAX_SCOPE_ROWS
            and not self._held.isdisjoint(rows)
            and all(row in self._held or not self._counts[row] for row in rows)
        )


def api_points(data: EvalData, blocks: Sequence[HeldOutSpans], what: str, wanted: int, seed: int) -> list[TaskPoint]:
    """Return up to `wanted` calls on held-out lines, of functions that the repository defined before or that the file
    itself defines; `what` of each is asked for: its callee or its arguments."""
    points = _by_group(blocks, partial(_call_points, data.tokenizer, what, seed))
    return in_turns(points, wanted, seed, "call", what)


def _call_points(tokenizer: RepoTokenizer, what: str, seed: int, block: HeldOutSpans) -> Iterator[TaskPoint]:
    make, held = (_callee_point if what == "callee" else _argument_point), block.held
    for call, place in sorted(block.calls, key=lambda one: hashing.seeded_int(seed, held.key, one[0].start)):
        if (point := make(tokenizer, held, call, place, seed)) is not None:
            yield point


def _callee_point(tokenizer: RepoTokenizer, held: HeldOutBlock, call: CallSpan, place: str, seed: int) -> TaskPoint:
    of = held.target.of
    at = of.token_at(call.start)
    skipped = of.text[int(of.starts[at]) : call.start]  # of the token that the name begins in
    return _call_point(
        tokenizer, held, "callee", place, (call.start, call.end), seed,
        read=lambda text: _name_at_start(text.removeprefix(skipped)),
        judge=lambda text: {"exact": float(text == call.name)},
    )  # fmt: skip


def _argument_point(
    tokenizer: RepoTokenizer, held: HeldOutBlock, call: CallSpan, place: str, seed: int
) -> TaskPoint | None:
    of = held.target.of
    wanted = of.text[max(call.first, 0) : max(call.last, 0)]
    if not wanted.strip() or len(wanted) > _MAX_ARGUMENT_CHARACTERS:
        return None
    skipped = of.text[int(of.starts[of.token_at(call.first)]) : call.first]
    return _call_point(
        tokenizer, held, "arguments", place, (call.first, call.last), seed,
        read=lambda text: until_closed(text.removeprefix(skipped)),
        judge=lambda text: _judge_middle(" ".join(wanted.split()), " ".join(text.split())),
    )  # fmt: skip


def _call_point(
    tokenizer: RepoTokenizer,
    held: HeldOutBlock,
    what: str,
    place: str,
    span: tuple[int, int],
    seed: int,
    *,
    read: Callable[[str], str],
    judge: Callable[[str], Mapping[str, float]],
) -> TaskPoint:
    of = held.target.of
    parts: list[FigureParts] = [{"what": what, "place": one} for one in (place, "all")]
    return TaskPoint(
        measure="api_use",
        key=f"{held.key}/{what}/{span[0]}",
        parts=parts,
        group=held.group,
        path=of.path,
        commit=held.commit,
        before=shown_before(of, span[0]),
        wanted=of.text[span[0] : span[1]],
        after="",
        lay_out=partial(_lay_out_text, tokenizer, held, span, seed),
        read=read,
        judge=judge,
    )


def _lay_out_text(
    tokenizer: RepoTokenizer, held: HeldOutBlock, span: tuple[int, int], seed: int, length: int
) -> TaskPrompt | None:
    of = held.target.of
    place = TargetSpan(held, of, of.token_at(span[0]), end_token(of, span[1]))
    layout = lay_out_prompt(place, length, "related", seed, tokenizer)
    if layout is None:
        return None
    return TaskPrompt.of(layout.ids[: layout.start], layout.ids[layout.start :])


def end_token(of: TokenizedText, character: int) -> int:
    """Return the first token boundary at or behind a character."""
    return int(np.searchsorted(of.starts, character))


def _name_at_start(text: str) -> str:
    found = re.match(r"[\w$]+(?:[?!](?!=))?", text)
    return found.group() if found else first_rows(text, 1)


def until_closed(text: str) -> str:
    """Return a text up to the bracket that closes what was open before it, strings left alone; all of it if there is
    none."""
    depth, quote = 0, ""
    skip = False
    for at, letter in enumerate(text):
        if skip:
            skip = False
        elif letter == "\\":
            skip = True
        elif quote:
            quote = "" if letter in (quote, "\n") else quote
        elif letter in "\"'`":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            if not depth:
                return text[:at]
            depth -= 1
    return text
