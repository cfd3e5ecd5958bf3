"""`preparation_summary.json`: what a repository holds, what was built of it, and every token that was not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from longrepo.data.corpus import Corpus
from longrepo.data.metadata import Header
from longrepo.data.packing import Band, phase_of
from longrepo.data.template import BuiltSequence
from longrepo.repository.encodings import NOTEBOOK_SUFFIX

SUMMARY_VERSION = 3
_MAX_LISTED = 10  # of the largest files and of the most imported ones


def count_sequences(sequences: Sequence[BuiltSequence], chosen: list[Band]) -> dict[str, Any]:
    """Count sequences: split → phase → sequences, tokens, target_tokens (weight 1), kinds, difficulties and languages
    (in sequences), and within_range: sequences that reach the phase's `low`."""
    tree: dict[str, dict[str, Any]] = {}
    lows = {band.phase: band.low for band in chosen}
    for one in sequences:
        phases = tree.setdefault(one.split, {})
        phase = phase_of(len(one), chosen)
        cell = phases.setdefault(
            str(phase),
            {"sequences": 0, "tokens": 0, "target_tokens": 0, "within_range": 0}
            | {"kinds": {}, "difficulties": {}, "languages": {}},
        )
        cell["sequences"] += 1
        cell["tokens"] += len(one)
        cell["target_tokens"] += one.builder.target_tokens()
        cell["within_range"] += len(one) >= lows[phase]
        for name, value in (("kinds", one.kind), ("difficulties", one.difficulty), ("languages", one.language)):
            cell[name][value] = cell[name].get(value, 0) + 1
    return tree


def summarize(corpora: Sequence[Corpus], header: Header) -> dict[str, Any]:
    """Return the summary in JSON types. Its keys are stable: added only with a new `summary_version`, never renamed."""
    return {
        "summary_version": SUMMARY_VERSION,
        "repositories": [_summarize_repository(corpus) for corpus in corpora],
        "tokenizer": {"name": header.tokenizer.name, "sha256": header.tokenizer.sha256},
        "settings": header.settings,
        "phases": header.bands,
        "sequences": header.counts,
        "accounts": header.accounts,
        "redactions": header.redactions,
        "difficulty_thresholds": header.thresholds,
    }


def _summarize_repository(corpus: Corpus) -> dict[str, Any]:
    facts, texts, shown = corpus.facts, list(corpus.texts.values()), corpus.reader.shown_path
    paths = [text.path for some in (texts, *corpus.held.values()) for text in some]
    files: Counter[str] = Counter(text.language for text in texts)
    tokens: Counter[str] = Counter()
    for text in texts:
        tokens[text.language] += len(text)
    sizes = sorted(texts, key=lambda text: (-len(text.text), text.path))
    imported = sorted(corpus.graph.imported_by.items(), key=lambda item: (-len(item[1]), item[0]))
    return {
        "name": facts.name,
        "head": facts.head,
        "training_up_to": facts.validation_from,
        "validation_up_to": facts.test_from,
        "held_out_files": facts.held_out_files,
        "licence": facts.licence,
        "licences": facts.licences,
        "weight": facts.weight,
        "notes": facts.notes,
        "files": {
            "count": len(paths),
            "characters": sum(len(text.text) for text in texts),
            "training_files": len(texts),
            "notebooks": sum(path.endswith(NOTEBOOK_SUFFIX) for path in paths),
            "training_tokens": sum(tokens.values()),
            "duplicate_tokens": corpus.duplicate_tokens,
            "languages": {
                language: {"files": count, "training_tokens": tokens[language]}
                for language, count in sorted(files.items(), key=lambda item: (-item[1], item[0]))
            },
            "largest": [{"path": shown(text.path), "characters": len(text.text)} for text in sizes[:_MAX_LISTED]],
            "left_out": dict(sorted(corpus.left_out.counts.items())),
            "left_out_bytes": dict(sorted(corpus.left_out.bytes.items())),
            "left_out_files": {
                reason: [{**one, "path": shown(one["path"])} for one in listed]
                for reason, listed in sorted(corpus.left_out.listed.items())
            },
        },
        "dependencies": {
            "edges": sum(map(len, corpus.graph.imports.values())),
            "most_imported": [{"path": shown(path), "by": len(by)} for path, by in imported[:_MAX_LISTED] if by],
        },
        "history": {
            "changes": len(corpus.training_changes),
            "changed_files": len({change.path for change in corpus.training_changes}),
            "changes_left_out": dict(sorted(corpus.changes_left_out.items())),
            "commits_left_out": dict(sorted(corpus.commits_left_out.items())),
        },
        "held_out_not_built": dict(sorted(corpus.targets_dropped.items())),
    }
