"""Opens what is measured on: the repositories that the sequences were made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from longrepo.config.schema import Settings
from longrepo.errors import InputError
from longrepo.evaluation.held import Material, Repo
from longrepo.evaluation.measuring import Other
from longrepo.evaluation.seen import seen_by
from longrepo.evaluation.trees import Trees
from longrepo.repository.repository import Repository
from longrepo.sequences.cache import Cache, cache_folder
from longrepo.sequences.questions.rows import folders_of
from longrepo.sequences.store import SequenceFile
from longrepo.sequences.tokenizer import RepoTokenizer
from longrepo.sequences.watch import Watch


@contextmanager
def opened(
    file: SequenceFile,
    tokenizer: RepoTokenizer,
    settings: Settings,
    given: Sequence[Path],
    others: Sequence[Path],
    watch: Watch,
) -> Iterator[tuple[Material, list[Other]]]:
    """The material, nothing chosen yet, and the other repositories at HEAD, as long as the block lasts.

    Raises InputError where none of the `given` folders is a repository of the file, or another can't be read.
    """
    folders: Mapping[str, Path] = folders_of(file, given)
    with ExitStack() as stack:
        cache = Cache(cache_folder())
        stack.callback(cache.close)
        repositories = []
        for facts in file.header.repositories:
            trees = Trees(Repository.open(folders[facts.name]), facts.head, tokenizer, settings, cache)
            repositories.append(Repo(facts, trees))
            stack.callback(repositories[-1].close)
        elsewhere = []
        for path in others:
            repository = Repository.open(path)
            commit = repository.resolve()
            if any(commit == facts.head for facts in file.header.repositories):
                repository.close()
                raise InputError(f"--other {path}: is the repository trained on; give another one")
            elsewhere.append(Other(Trees(repository, commit, tokenizer, settings, cache), commit))
            stack.callback(elsewhere[-1].trees.close)
        with watch.count("reading what training shows (sequences)", len(file)) as done:
            seen = seen_by(file, tokenizer, lambda: done(1))
        yield Material(tokenizer, repositories, seen), elsewhere
