"""`preparation_summary.json`: what was found, what became of it, and every token that was not used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from longrepo.sequences.corpus import Corpus
from longrepo.sequences.header import Header
from longrepo.sequences.lengths import Band, phase_of
from longrepo.sequences.sequence import TARGET_WEIGHT, LongContextSequence

SUMMARY_VERSION = 1
_LISTED = 10  # of the largest files and of the most imported ones


def counts(sequences: Sequence[LongContextSequence], chosen: Sequence[Band]) -> dict[str, Any]:
    """split → phase → sequences, tokens, target_tokens (weight 1), kinds, difficulties and languages (sequences)."""
    tree: dict[str, dict[str, Any]] = {}
    listed = list(chosen)
    for one in sequences:
        about = one.metadata
        phases = tree.setdefault(about["split"], {})
        cell = phases.setdefault(
            str(phase_of(len(one), listed)),
            {"sequences": 0, "tokens": 0, "target_tokens": 0, "kinds": {}, "difficulties": {}, "languages": {}},
        )
        cell["sequences"] += 1
        cell["tokens"] += len(one)
        cell["target_tokens"] += one.loss_weights.count(TARGET_WEIGHT)
        for name, value in (
            ("kinds", about["kind"]),
            ("difficulties", about["curriculum_difficulty"]),
            ("languages", about["language"]),
        ):
            cell[name][value] = cell[name].get(value, 0) + 1
    return tree


def summarise(corpus: Corpus, header: Header) -> dict[str, Any]:
    """The summary, in JSON's types. Stable: keys are added only with a new `summary_version`, never renamed."""
    files = corpus.snapshot.files
    languages: Counter[str] = Counter(file.language for file in files)
    tokens: Counter[str] = Counter()
    for file in corpus.files:
        tokens[file.language] += len(corpus.texts[file.path])
    sizes = sorted(files, key=lambda file: (-len(file.text), file.path))
    imported = sorted(corpus.graph.imported_by.items(), key=lambda item: (-len(item[1]), item[0]))
    facts = header.repository
    return {
        "summary_version": SUMMARY_VERSION,
        "repository": {
            "name": facts.name,
            "head": facts.head,
            "training_up_to": facts.validation_from,
            "validation_up_to": facts.test_from,
            "held_out_files": facts.held_out_files,
        },
        "tokenizer": {"name": header.tokenizer.name, "sha256": header.tokenizer.sha256},
        "settings": header.settings,
        "phases": header.bands,
        "files": {
            "count": len(files),
            "characters": sum(len(file.text) for file in files),
            "training_files": len(corpus.files),
            "training_tokens": sum(tokens.values()),
            "languages": {
                language: {"files": count, "training_tokens": tokens[language]}
                for language, count in sorted(languages.items(), key=lambda item: (-item[1], item[0]))
            },
            "largest": [{"path": file.path, "characters": len(file.text)} for file in sizes[:_LISTED]],
            "left_out": dict(sorted(corpus.snapshot.left_out.items())),
            "left_out_bytes": dict(sorted(corpus.snapshot.left_out_bytes.items())),
        },
        "dependencies": {
            "edges": sum(map(len, corpus.graph.imports.values())),
            "most_imported": [{"path": path, "by": len(by)} for path, by in imported[:_LISTED] if by],
        },
        "history": {
            "changes": len(corpus.links),
            "changed_files": len(corpus.chains),
            "changes_left_out": dict(sorted(corpus.changes_left_out.items())),
            "commits_left_out": dict(sorted(corpus.commits_left_out.items())),
        },
        "sequences": header.counts,
        "accounts": header.accounts,
        "held_out_not_built": dict(sorted(corpus.dropped.items())),
        "difficulty_thresholds": header.thresholds,
        "notes": facts.notes,
    }
