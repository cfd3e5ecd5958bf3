"""Reads a repository's texts as tokenized texts: from the cache, or from git through a pool of processes.

The pool extracts features on several cores: jobs go out in batches of a few hundred kilobytes, results come back in
order.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

from longrepo.config.schema import DataSettings
from longrepo.data.features import (
    FEATURES_VERSION,
    AddedJob,
    FeatureExtractor,
    Features,
    FileJob,
    Job,
    StepJob,
    WindowJob,
    is_still_valid,
    pack_skip_reason,
    skip_reason,
    unpack_features,
)
from longrepo.data.text import Int32Array, path_tokens
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.errors import RunError
from longrepo.redaction.redactor import Redactor
from longrepo.repository.languages import language_of
from longrepo.repository.repository import Repository
from longrepo.repository.rules import FileSelection, PathRule
from longrepo.repository.types import BlobText
from longrepo.utils.cache import SqliteCache

_BATCH_CHARACTERS = 300_000  # of text in a batch
_MIN_PARALLEL_CHARACTERS = 1_000_000  # fewer are done in this process before another would have started
_POLL_SECONDS = 2.0
KeyedJob = tuple[str, Job]

_extractor: FeatureExtractor | None = None


class ExtractionPool:
    """Runs a `FeatureExtractor` in `workers` processes, or in this one if there is little to do. Close it after use."""

    def __init__(
        self, tokenizer: RepoTokenizer, redactor: Redactor | None, context_weight: float, workers: int
    ) -> None:
        self._arguments = (tokenizer, redactor, context_weight)
        self._workers = workers
        self._here = FeatureExtractor(*self._arguments)
        self._executor: ProcessPoolExecutor | None = None
        self._processes: set[BaseProcess] = set()
        self._done = 0

    def close(self) -> None:
        """End the processes; more work starts new ones."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
            self._processes.clear()

    def run(self, jobs: Iterable[KeyedJob]) -> Iterator[tuple[str, bytes]]:
        """Yield (key, result) of each job, in order."""
        waiting: deque[tuple[list[str], Future[list[bytes]]]] = deque()
        for batch in _job_batches(jobs):
            keys, todo = [key for key, _ in batch], [job for _, job in batch]
            self._done += sum(map(_job_size, todo))
            if self._workers < 2 or (self._executor is None and self._done < _MIN_PARALLEL_CHARACTERS):
                yield from zip(keys, self._here.extract(todo), strict=True)
                continue
            waiting.append((keys, self._submit(todo)))
            if len(waiting) > 2 * self._workers:
                yield from self._results(*waiting.popleft())
        while waiting:
            yield from self._results(*waiting.popleft())

    def _submit(self, todo: list[Job]) -> Future[list[bytes]]:
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self._workers, multiprocessing.get_context("spawn"), _init_worker, self._arguments
            )
        # A new process inherits blocked signals: Ctrl-C is for the main process to handle.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        others = set(multiprocessing.active_children())
        try:
            return self._executor.submit(_extract, todo)
        except (OSError, BrokenProcessPool) as error:
            raise _pool_error(error) from None
        finally:
            self._processes |= set(multiprocessing.active_children()) - others
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _results(self, keys: list[str], future: Future[list[bytes]]) -> Iterator[tuple[str, bytes]]:
        try:
            results = self._wait(future)
        except (OSError, BrokenProcessPool) as error:
            raise _pool_error(error) from None
        yield from zip(keys, results, strict=True)

    def _wait(self, future: Future[list[bytes]]) -> list[bytes]:
        """Return a future's result. A process that is killed while it writes a result leaves half of it, and the
        executor (Python 3.11) then waits for the rest forever: RunError once it doesn't notice by itself."""
        died = False
        while not future.done():
            wait([future], timeout=_POLL_SECONDS)
            if died and not future.done():
                self._break()
                raise _pool_error("killed while it wrote its result")
            died = any(process.exitcode is not None for process in self._processes)
        return future.result()

    def _break(self) -> None:
        """Kill the processes and close the last writing end of their results, so that nobody waits for more."""
        for process in self._processes:
            process.kill()
        executor: Any = self._executor
        executor._result_queue._writer.close()


def _pool_error(error: object) -> RunError:
    return RunError(f"a helper process ended before its work was done ({error}); was there too little memory?")


def _init_worker(tokenizer: RepoTokenizer, redactor: Redactor | None, context_weight: float) -> None:
    global _extractor
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    _extractor = FeatureExtractor(tokenizer, redactor, context_weight)


def _exit_with_parent(parent: int) -> None:
    """End this process once its parent is gone, so that a killed run leaves nothing behind."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _extract(jobs: list[Job]) -> list[bytes]:
    assert _extractor is not None
    return _extractor.extract(jobs)


def _job_batches(jobs: Iterable[KeyedJob]) -> Iterator[list[KeyedJob]]:
    batch: list[KeyedJob] = []
    size = 0
    for keyed in jobs:
        batch.append(keyed)
        size += _job_size(keyed[1])
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _job_size(job: Job) -> int:
    """Return a job's cost in characters of a file."""
    if isinstance(job, FileJob):
        return len(job.text)
    if isinstance(job, AddedJob):
        return len(job.after)
    if isinstance(job, StepJob):
        return 1_000 + (len(job.before) + len(job.after)) // 10
    return job.characters + len(job.text) // 10


_REQUESTS_PER_BATCH = 256
_REQUESTS_PER_READ = 64


@dataclass(frozen=True)
class StepRequest:
    """A request for one file's change by a commit, under the path the file has now."""

    path: str
    commit: str
    message: str
    before: str  # blob ids
    after: str


@dataclass(frozen=True)
class WindowRequest:
    """A request for about `characters` of a blob around spans of rows."""

    path: str
    blob: str
    spans: tuple[tuple[int, int], ...]
    characters: int


@dataclass(frozen=True)
class AddedRequest:
    """A request for the lines that a commit added to a file; `before` None: there was no such file."""

    path: str
    before: str | None
    after: str


@dataclass(frozen=True)
class FileRequest:
    """A request for a file."""

    path: str
    blob: str


Request = FileRequest | AddedRequest | StepRequest | WindowRequest


@dataclass(frozen=True)
class SkippedText:
    """A text that isn't used, and the reason. False in a condition."""

    reason: str

    def __bool__(self) -> bool:
        return False


def selection_of(data: DataSettings) -> FileSelection:
    """Return which files the settings choose."""
    return FileSelection(data.include, data.exclude, data.path.removeprefix("./").strip("/"))


@dataclass
class CachedReader:
    """Answers requests on one repository. `found` counts redactions by kind; `redaction_places` holds where they were:
    (path or commit:path, line, kind)."""

    repository: Repository
    tokenizer: RepoTokenizer
    redactor: Redactor | None
    pool: ExtractionPool
    cache: SqliteCache
    max_file_bytes: int
    context_weight: float
    found: Counter[str] = field(default_factory=Counter)
    redaction_places: set[tuple[str, int, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.shown_path: Callable[[str], str] = lru_cache(maxsize=None)(
            lambda path: self.redactor.path(path) if self.redactor else path
        )
        self.path_ids: Callable[[str], Int32Array] = lru_cache(maxsize=None)(
            lambda path: path_tokens(self.tokenizer, self.shown_path(path))
        )
        self.rules = self.repository.rules(self.repository.resolve())
        redacting = "redacted" if self.redactor else "as it is"
        self._version = f"{FEATURES_VERSION} {self.tokenizer.sha256} {redacting} {self.context_weight}"

    def message(self, text: str) -> str:
        """Return a commit's message, redacted."""
        return self.redactor.message(text).text if self.redactor else text

    def hides(self, path: str) -> bool:
        """Return whether a path holds a name or an address, so that training doesn't show it as it is."""
        return self.shown_path(path) != path

    def read(self, requests: Iterable[Request], done: Callable[[int], None]) -> Iterator[Features | SkippedText]:
        """Yield the answer to each request, in order; `done` is called with the number of newly finished ones."""
        rest = iter(requests)
        while some := list(islice(rest, _REQUESTS_PER_BATCH)):
            self.rules.load(request.path for request in some)
            keys = [self._key(request) for request in some]
            known = {key: value for key, value in self.cache.get(keys).items() if is_still_valid(value, self.redactor)}
            missing = {key: request for key, request in zip(keys, some, strict=True) if key not in known}
            done(len(some) - len(missing))
            fresh: dict[str, bytes] = {}
            for key, value in self._extract(missing):
                fresh[key] = value
                done(1)
            self.cache.put(fresh)
            known |= fresh
            for key, request in zip(keys, some, strict=True):
                yield self._answer(known[key], request)

    def _answer(self, value: bytes, request: Request) -> Features | SkippedText:
        if reason := skip_reason(value):
            return SkippedText(reason)
        features = unpack_features(value, request.path, self.path_ids(request.path))
        path = self.shown_path(request.path)
        where = f"{request.commit[:10]}:{path}" if isinstance(request, StepRequest) else path
        in_path = [("path", 0)] if self.hides(request.path) else []
        for kind, line in (*features.facts["findings"], *in_path):
            if (where, line, kind) not in self.redaction_places:
                self.redaction_places.add((where, line, kind))
                self.found[kind] += 1
        return features

    def _key(self, request: Request) -> str:
        # With the text, language and name decide the language; a file that is only moved isn't read again.
        name = request.path.rpartition("/")[2]
        rule = self.rules.of(request.path)
        about: list[object] = [self._version, language_of(request.path), name.rpartition(".")[2].lower(), *rule[2:]]
        if isinstance(request, FileRequest):
            about += ["file", request.blob]
        elif isinstance(request, AddedRequest):
            about += ["added", request.before, request.after]
        elif isinstance(request, StepRequest):
            about += ["step", request.commit, request.before, request.after]
        else:
            about += ["window", request.blob, request.spans, request.characters]
        return "t:" + hashlib.sha256("\0".join(map(str, about)).encode("utf-8", "surrogatepass")).hexdigest()[:40]

    def _extract(self, missing: dict[str, Request]) -> Iterator[tuple[str, bytes]]:
        """Yield (key, result) of each request; a text that is left out needs no extraction."""
        dropped: list[tuple[str, bytes]] = []
        yield from self.pool.run(self._jobs(missing, dropped))
        yield from dropped

    def _jobs(self, missing: dict[str, Request], dropped: list[tuple[str, bytes]]) -> Iterator[tuple[str, Job]]:
        rest = iter(missing.items())
        texts: dict[str, BlobText] = {}
        while some := list(islice(rest, _REQUESTS_PER_READ)):
            blobs = dict.fromkeys(blob for _, request in some for blob in _blobs_of(request))
            texts = {blob: text for blob, text in texts.items() if blob in blobs}
            forms = {blob: form for _, one in some if (form := self.rules.form_of(one.path)) for blob in _blobs_of(one)}
            new = [blob for blob in blobs if blob not in texts]
            texts |= {one.blob: one for one in self.repository.texts(new, self.max_file_bytes, forms)}
            for key, request in some:
                job = _make_job(request, [texts[blob] for blob in _blobs_of(request)], self.rules.of(request.path))
                if isinstance(job, SkippedText):
                    dropped.append((key, pack_skip_reason(job.reason)))
                else:
                    yield key, job


def _blobs_of(request: Request) -> Sequence[str]:
    if isinstance(request, AddedRequest):
        return (request.before, request.after) if request.before else (request.after,)
    return (request.before, request.after) if isinstance(request, StepRequest) else (request.blob,)


def _make_job(request: Request, texts: Sequence[BlobText], rule: PathRule) -> Job | SkippedText:
    for _, text, reason, _ in texts:
        if text is None or (reason == "generated" and not rule.own):
            return SkippedText(reason)
    whole = ["" if one.reason == "empty" else one.text or "" for one in texts]
    language = rule.language or texts[-1].language
    if isinstance(request, StepRequest):
        if not whole[0].strip():
            return SkippedText("file added")
        return StepJob(request.path, request.commit, request.message, whole[0], whole[1], language)
    if isinstance(request, AddedRequest):
        return AddedJob(request.path, whole[0] if request.before else "", whole[-1], language)
    if isinstance(request, WindowRequest):
        return WindowJob(request.path, whole[0], request.spans, request.characters, language)
    return FileJob(request.path, whole[0], language) if whole[0] else SkippedText("empty")
