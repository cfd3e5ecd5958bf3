"""Analysis on several cores: jobs go out in batches of some hundred kilobytes, results come back in order."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from threading import Thread

from longrepo.errors import RunError
from longrepo.redaction.redactor import Redactor
from longrepo.sequences.analysis import AddedJob, Analyser, FileJob, Job, StepJob
from longrepo.sequences.tokenizer import RepoTokenizer

_CHARACTERS = 300_000  # of text in a batch
_WORTH_IT = 1_000_000  # characters: less is done here before another process has begun
Keyed = tuple[str, Job]

_analyser: Analyser | None = None


class AnalysisPool:
    """Runs an `Analyser` in `workers` processes, or here where there is one or little to do. Close it after use."""

    def __init__(
        self, tokenizer: RepoTokenizer, redactor: Redactor | None, context_weight: float, workers: int
    ) -> None:
        self._arguments = (tokenizer, redactor, context_weight)
        self._workers = workers
        self._here = Analyser(*self._arguments)
        self._executor: ProcessPoolExecutor | None = None
        self._done = 0

    def close(self) -> None:
        """End the processes; more work begins new ones."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def run(self, jobs: Iterable[Keyed]) -> Iterator[tuple[str, bytes]]:
        """(key, result) of each job, in order."""
        waiting: deque[tuple[list[str], Future[list[bytes]]]] = deque()
        for batch in _batches(jobs):
            keys, todo = [key for key, _ in batch], [job for _, job in batch]
            self._done += sum(map(_size, todo))
            if self._workers < 2 or (self._executor is None and self._done < _WORTH_IT):
                yield from zip(keys, self._here.analyse(todo), strict=True)
                continue
            waiting.append((keys, self._submit(todo)))
            if len(waiting) > 2 * self._workers:
                yield from _results(*waiting.popleft())
        while waiting:
            yield from _results(*waiting.popleft())

    def _submit(self, todo: list[Job]) -> Future[list[bytes]]:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self._workers, multiprocessing.get_context("spawn"), _begin, self._arguments
            )
        # A process begins with the signals blocked that are blocked here: Ctrl-C is the main process's to answer.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return self._executor.submit(_analyse, todo)
        except (OSError, BrokenProcessPool) as error:
            raise _broken(error) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _results(keys: list[str], future: Future[list[bytes]]) -> Iterator[tuple[str, bytes]]:
    try:
        results = future.result()
    except (OSError, BrokenProcessPool) as error:
        raise _broken(error) from None
    yield from zip(keys, results, strict=True)


def _broken(error: Exception) -> RunError:
    return RunError(f"a helper process ended before its work was done ({error}); was there too little memory?")


def _begin(tokenizer: RepoTokenizer, redactor: Redactor | None, context_weight: float) -> None:
    global _analyser
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _analyser = Analyser(tokenizer, redactor, context_weight)


def _end_with(parent: int) -> None:
    """A main process that was killed leaves nothing behind."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _analyse(jobs: list[Job]) -> list[bytes]:
    assert _analyser is not None
    return _analyser.analyse(jobs)


def _batches(jobs: Iterable[Keyed]) -> Iterator[list[Keyed]]:
    batch: list[Keyed] = []
    size = 0
    for keyed in jobs:
        batch.append(keyed)
        size += _size(keyed[1])
        if size >= _CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _size(job: Job) -> int:
    """Characters of text that a job takes about as long as."""
    if isinstance(job, FileJob):
        return len(job.text)
    if isinstance(job, AddedJob):
        return len(job.after)
    if isinstance(job, StepJob):
        return 1_000 + (len(job.before) + len(job.after)) // 10
    return job.characters + len(job.text) // 10
