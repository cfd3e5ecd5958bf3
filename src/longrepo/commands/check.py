"""`longrepo check-leaks`: whether anything that validation or test scores stands in a training sequence."""

from __future__ import annotations

from longrepo.commands.arguments import SequencesArgument, TokenizerOption
from longrepo.errors import RunError


def check_leaks(
    sequences: SequencesArgument,
    model: TokenizerOption = None,
) -> None:
    """Check that nothing which validation or test scores stands in training; exit status 1 where something does."""
    from rich.console import Console

    from longrepo.reports.leaks import print_leaks
    from longrepo.reports.progress import counting
    from longrepo.sequences.header import tokenizer_of
    from longrepo.sequences.leaks import check_leaks as check
    from longrepo.sequences.store import read_sequences

    file = read_sequences(sequences)
    tokenizer = tokenizer_of(file.header, model)
    with counting("comparing sequences", len(file)) as tick:
        found = check(file, tokenizer, tick)
    print_leaks(found, file, Console())
    if found.leaks:
        raise RunError(
            f"{sequences}: {len(found.leaks):,} leaks in {found.rows:,} held-out sequences: what they measure was "
            "trained on; make the sequences again"
        )
