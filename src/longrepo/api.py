"""The Python API: `longrepo.prepare`, `longrepo.train`, `longrepo.evaluate` and `longrepo.load`.

The commands of these names call them too. Arguments are named after the options; `config` is a settings file and
`overrides` are what `--set` takes ("lora.r=16"). Nothing is printed. All raise InputError for bad input and RunError
for a failure on the way; the message is one line that says what to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from longrepo.config.loader import load_settings, path_override
from longrepo.config.schema import ContextSettings, Settings
from longrepo.errors import InputError

if TYPE_CHECKING:
    from longrepo.data.difficulty import Scorer
    from longrepo.data.metadata import Header
    from longrepo.data.prepare import PreparationTools, RepositorySpec
    from longrepo.data.tokenizer import RepoTokenizer
    from longrepo.engines.registry import EngineSelection
    from longrepo.evaluation.results import Evaluation
    from longrepo.serve.model import TunedModel
    from longrepo.training.events import Reporter
    from longrepo.training.launch import TrainedRun
    from longrepo.utils.progress import Progress


AnyPath = str | os.PathLike[str]
DeviceName = Literal["auto", "mps", "cuda", "cpu"]
EngineName = Literal["auto", "torch", "mlx"]
_MAX_WORKERS = 8


@dataclass(frozen=True)
class PreparedFolder:
    """What `prepare` wrote. `sequences`: their folder; `header`: what they were made from, with counts; `summary`: the
    content of `preparation_summary.json`."""

    sequences: Path
    header: Header
    summary: dict[str, Any]


def prepare(
    repo: AnyPath | Sequence[AnyPath],
    output_dir: AnyPath,
    *,
    weight: Sequence[float] | None = None,
    max_sequence_length: int | None = None,
    phases: int | None = None,
    config: AnyPath | None = None,
    model: str | None = None,
    revision: str = "HEAD",
    path: str | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
) -> PreparedFolder:
    """Prepare the training sequences of one or more git repositories and write them, with a summary, to `output_dir`.

    `weight`: how often a phase shows each repository's text, one for each; `max_sequence_length`: tokens, by default
    `model.max_position_embeddings`; `phases`: build phases 1 to N; `model`: whose tokenizer, instead of `model.name`;
    `path`: read only this folder of the repositories.
    """
    settings, folder = load_settings(_path(config), (*overrides, *path_override(path))), Path(output_dir)
    with open_repositories(_paths(repo), weight, revision) as origins:
        from longrepo.data.dataset import SEQUENCES_FOLDER
        from longrepo.data.packing import last_phase
        from longrepo.data.prepare import check_writable, write_prepared
        from longrepo.data.prepare import prepare as build
        from longrepo.engines.model_shape import local_positions
        from longrepo.utils.files import check_folder_name

        check_folder_name(folder, "--output-dir")
        check_writable(folder)
        length = max_sequence_length or settings.model.max_position_embeddings
        settings = with_model(settings, model)
        with prepare_tools(settings, None, progress) as ready:
            ready.positions = partial(local_positions, settings.model)
            prepared = build(origins, settings, ready, phases or last_phase(settings), length)
            header = write_prepared(folder, prepared, ready.watch)
    return PreparedFolder(folder / SEQUENCES_FOLDER, header, prepared.summary)


def train(
    sequences: AnyPath | None = None,
    output: AnyPath | None = None,
    *,
    config: AnyPath | None = None,
    model: str | None = None,
    epochs: int | None = None,
    checkpoint: AnyPath | None = None,
    resume: AnyPath | None = None,
    overrides: Sequence[str] = (),
    device: DeviceName | str = "auto",
    engine: EngineName | str = "auto",
    reporter: Reporter | None = None,
) -> TrainedRun:
    """Train an adapter on prepared sequences, phase by phase, into the run's folder `output`.

    `epochs`: train N more, not the whole schedule; `checkpoint`: start with this checkpoint's weights and epoch;
    `resume`: "auto" continues the run in `output`, a folder the run there; `reporter`: receives every phase, update and
    epoch. Ctrl-C saves: the result then has exit status 130.
    """
    from longrepo.training.launch import SilentReporter, TrainingRequest, launch_training

    request = TrainingRequest(
        config=_path(config),
        sequences=_path(sequences),
        output=_path(output),
        epochs=epochs,
        checkpoint=_path(checkpoint),
        resume=None if resume is None else os.fspath(resume),
        overrides=(*overrides, *((f"model.name={model}",) if model else ())),
        device=device,
        engine=engine,
    )
    return launch_training(request, reporter or SilentReporter())


def evaluate(
    run: AnyPath,
    *,
    repo: AnyPath | Sequence[AnyPath] = (),
    sequences: AnyPath | None = None,
    split: Literal["validation", "test"] | str = "test",
    amount: Literal["full", "quick", "glance"] = "full",
    other: Sequence[AnyPath] = (),
    against: AnyPath | Sequence[AnyPath] = (),
    control: AnyPath | Sequence[AnyPath] = (),
    length: Sequence[int] = (),
    context: ContextSettings | None = None,
    device: DeviceName | str = "auto",
    engine: EngineName | str = "auto",
    result: AnyPath | None = None,
    note: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare the base and the tuned model of a run on lines that training never saw; write `RUN/evaluation.json`.

    What was measured before is not measured again. `repo`, `sequences`: by default those that the run was trained on;
    `amount`: "glance" is what the pipeline ends with; `other`: repositories to check forgetting on, besides neutral
    code; `against`: runs or adapters of the same base, measured on the same lines; `control`: repositories whose newest
    lines are measured too; `length`: tokens,
    by default the longest of each phase; `context`: positions for lengths beyond the model's own; `result`: another
    file to write; `note`: receives lines worth knowing before the measurements begin.
    """
    from longrepo.evaluation.run import FULL, GLANCE, QUICK, EvaluationRun
    from longrepo.reports.run_record import EVALUATION_FILE, check_is_run
    from longrepo.utils.progress import NoProgress

    folder = Path(run)
    check_is_run(folder)
    choice = choose_engine_of(folder, device, engine)
    loaded = EvaluationRun.of(
        folder, _path(sequences), _paths(repo), split, choice, device, length, context, _paths(against)
    )
    if note is not None:
        for line in (": ".join(choice.line), *(f"note: {one}" for one in loaded.notes)):
            note(line)
    much = {one.name: one for one in (FULL, QUICK, GLANCE)}[amount]
    written = _path(result) or folder / EVALUATION_FILE
    return loaded.measured(much, _paths(other), written, progress or NoProgress(), _paths(control))


def load(
    run: AnyPath,
    *,
    model: str | None = None,
    context: ContextSettings | None = None,
    device: DeviceName | str = "auto",
    engine: EngineName | str = "auto",
) -> TunedModel:
    """Load a tuned model from the folder of a run, a checkpoint or an adapter.

    `model`: the base, if not the one that the adapter names; `context`: positions for texts beyond the trained length.
    """
    from longrepo.serve.model import TunedModel

    return TunedModel.load(Path(run), model, choose_engine_of(run, device, engine), device, context)


def choose_engine_of(run: AnyPath, device: str, engine: str) -> EngineSelection:
    """Choose the engine for the folder of a run, a checkpoint or an adapter."""
    from longrepo.engines.registry import choose_engine
    from longrepo.training.artifact import find_artifact

    return choose_engine(engine, device, find_artifact(Path(run)).settings.training.weights)


def _path(given: AnyPath | None) -> Path | None:
    return None if given is None else Path(given)


def _paths(given: AnyPath | Sequence[AnyPath]) -> list[Path]:
    return [Path(given)] if isinstance(given, str | os.PathLike) else [Path(one) for one in given]


@contextmanager
def open_repositories(
    repos: Sequence[Path], weights: Sequence[float] | None, revision: str
) -> Iterator[list[RepositorySpec]]:
    """Open repositories at a revision, for as long as the block lasts.

    Raises InputError if one can't be read or is named twice, or if the weights don't match.
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
            raise InputError(f"--repo {twice}: given twice; use --weight 2 to count it twice")
        commits = [repository.resolve(revision) for repository in found]
        from longrepo.data.prepare import RepositorySpec

        yield [RepositorySpec(*one) for one in zip(found, commits, given, strict=True)]


@contextmanager
def prepare_tools(
    settings: Settings, model: str | None, progress: Progress | None = None, choice: EngineSelection | None = None
) -> Iterator[PreparationTools]:
    """Open the tools of a preparation: the tokenizer of `model` (default: of the settings) and the cache.

    `progress` is told how far the work is; `choice`: the engine that scores difficulty (default: what `auto` chooses).
    """
    from longrepo.data.prepare import PreparationTools
    from longrepo.data.tokenizer_loading import base_tokenizer
    from longrepo.utils.cache import SqliteCache, cache_folder
    from longrepo.utils.progress import NoProgress

    settings = with_model(settings, model)
    tokenizer = base_tokenizer(settings)
    cache, listener = SqliteCache(cache_folder()), progress or NoProgress()
    try:
        scorer = _base_model_scorer(settings, tokenizer, choice) if settings.data.model_difficulty else None
        workers = min(_MAX_WORKERS, os.cpu_count() or 1)
        yield PreparationTools(tokenizer, cache, workers, listener, scorer)
    except KeyboardInterrupt as stop:
        stop.add_note("nothing was written; what was read is kept for the next run")
        raise
    finally:
        cache.close()


def with_model(settings: Settings, name: str | None) -> Settings:
    """Return the settings with another model, if one is named; the revision was the former one's."""
    if name is None:
        return settings
    model = settings.model.model_copy(update={"name": name, "revision": None})
    return settings.model_copy(update={"model": model})


def _base_model_scorer(settings: Settings, tokenizer: RepoTokenizer, choice: EngineSelection | None) -> Scorer:
    import numpy as np

    from longrepo.engines.base import Batch
    from longrepo.engines.registry import choose_engine, create_engine

    engine = create_engine(choice or choose_engine("auto", "auto", settings.training.weights), settings, tokenizer)

    def score(ids: np.ndarray, weights: np.ndarray) -> float:
        with engine.base_only():
            losses = engine.score(Batch.of([(ids, weights)], engine.pad_id))[0]
        return float(losses[weights == 1].mean(dtype=np.float64))

    return score
