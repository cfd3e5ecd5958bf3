"""What the commands that prepare sequences share: repositories with their weights, and the tools for the work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from longrepo.config.schema import Settings
from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.engines.choose import Choice
    from longrepo.sequences.assembly import Origin, Tools
    from longrepo.sequences.model_difficulty import Scorer
    from longrepo.sequences.tokenizer import RepoTokenizer

_MOST_WORKERS = 8


@contextmanager
def opened(repos: Sequence[Path], weights: Sequence[float] | None, revision: str) -> Iterator[list[Origin]]:
    """The repositories at a revision, as long as the block lasts.

    Raises InputError where one can't be read, is named twice, or the weights don't match.
    """
    from longrepo.repository.repository import Repository

    given = list(weights or [1.0] * len(repos))
    if len(given) != len(repos):
        raise InputError(f"--weight is given {len(given)} times and --repo {len(repos)} times; give one for each")
    if wrong := [weight for weight in given if not 0 < weight <= 10]:
        raise InputError(f"--weight {wrong[0]:g}: expected a number above 0 and at most 10")
    with ExitStack() as stack:
        found = [stack.enter_context(Repository.open(path)) for path in repos]
        paths = [repository.path for repository in found]
        if twice := next((path for path in paths if paths.count(path) > 1), None):
            raise InputError(f"--repo {twice}: given twice; use --weight 2 to have it count twice")
        commits = [repository.resolve(revision) for repository in found]
        from longrepo.sequences.assembly import Origin

        yield [Origin(*one) for one in zip(found, commits, given, strict=True)]


@contextmanager
def tools(settings: Settings, model: str | None, verbose: bool, choice: Choice | None = None) -> Iterator[Tools]:
    """The tokenizer of `model` (else of the settings), the cache, and a terminal that shows how far the work is.
    `choice`: the engine that scores difficulty; default: as `auto` chooses."""
    from longrepo.reports.progress import Terminal
    from longrepo.sequences.assembly import Tools
    from longrepo.sequences.cache import Cache, cache_folder
    from longrepo.sequences.tokenizer import load_tokenizer

    if model is not None:
        named = settings.model.model_copy(update={"name": model, "revision": None})
        settings = settings.model_copy(update={"model": named})
    tokenizer = load_tokenizer(settings.model.name, settings.model.revision, settings.data.structure_tokens)
    cache = Cache(cache_folder())
    try:
        scorer = _base_model(settings, tokenizer, choice) if settings.data.model_difficulty else None
        workers = min(_MOST_WORKERS, os.cpu_count() or 1)
        yield Tools(tokenizer, cache, workers, Terminal(verbose), scorer)
    except KeyboardInterrupt:
        print("stopped: nothing was written; what was read is kept for the next run", file=sys.stderr)
        raise
    finally:
        cache.close()


def _base_model(settings: Settings, tokenizer: RepoTokenizer, choice: Choice | None) -> Scorer:
    import numpy as np

    from longrepo.engines.base import Batch
    from longrepo.engines.choose import choose, create

    engine = create(choice or choose("auto", "auto", settings.training.weights), settings, tokenizer)

    def score(ids: np.ndarray, weights: np.ndarray) -> float:
        with engine.base_only():
            losses = engine.score(Batch.of([(ids, weights)], engine.pad_id))[0]
        return float(losses[weights == 1].mean(dtype=np.float64))

    return score
