"""`longrepo pipeline`: from a repository to a tuned adapter and its figures, in one go."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longrepo.cli.data import open_repositories, prepare_tools
from longrepo.cli.options import EngineChoice, EngineOption, ModelOption, SetOption
from longrepo.cli.train import DeviceChoice, TrainArguments, run_training
from longrepo.config.load import dump_yaml, load_settings, settings_hash
from longrepo.config.schema import PhaseConfig, Settings
from longrepo.curriculum.schedule import make_schedule
from longrepo.engines.registry import choose_engine, select_device
from longrepo.errors import InputError
from longrepo.pipeline import (
    PipelineStage,
    SettingChoice,
    SettingChooser,
    choose_amounts,
    choose_lengths,
    latest_choices,
)
from longrepo.utils.files import write_text_file

if TYPE_CHECKING:
    from longrepo.data.metadata import Header
    from longrepo.data.prepare import RepositorySpec
    from longrepo.data.tokenizer import RepoTokenizer
    from longrepo.memory.budget import Budget
    from longrepo.memory.planner import MemoryPlanner, StepEstimate
    from longrepo.reports.training import PipelineReporter


def pipeline(
    repo: Annotated[list[Path], typer.Option(help="The git repository to learn; may be repeated.")],
    weight: Annotated[
        list[float] | None, typer.Option(help="How often a repository's text is seen; one for each --repo. Default: 1.")
    ] = None,
    model: ModelOption = None,
    output: Annotated[Path | None, typer.Option(help="Where results go. Default: ./runs/REPOSITORY.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="A settings file; what it sets is not derived. Default: the guide's values.")
    ] = None,
    revision: Annotated[str, typer.Option(help="The commit, branch or tag to learn.")] = "HEAD",
    sequence_length: Annotated[int | None, typer.Option(help="Over model.max_position_embeddings (2048).")] = None,
    overlap: Annotated[int | None, typer.Option(help="Over data.overlap (512).")] = None,
    long_context_mode: Annotated[
        bool, typer.Option(help="Related files, commits and questions; off: plain overlapping windows.")
    ] = True,
    device: Annotated[DeviceChoice, typer.Option(help="Where to train.")] = DeviceChoice.auto,
    engine: EngineOption = EngineChoice.auto,
    set_: SetOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="A line for every update and save.")] = False,
) -> None:
    """Prepare, train and evaluate; stages that are done and unchanged are skipped, a stopped one goes on."""
    named = {"model.name": model, "model.max_position_embeddings": sequence_length, "data.overlap": overlap}
    overrides = [*(set_ or ()), *(f"{key}={value}" for key, value in named.items() if value is not None)]
    settings = load_settings(config, overrides)
    from longrepo.data.prepare import check_writable
    from longrepo.reports.training import PipelineReporter
    from longrepo.training.events import check_logger_installed

    check_logger_installed(settings.training.report_to)
    with open_repositories(repo, weight, revision) as origins:
        walk = Pipeline(origins, settings, engine.value, device.value, verbose, PipelineReporter())
        output = output or Path("runs") / walk.name
        check_writable(output)
        status = walk.run(output, long_context_mode)
    if status:
        raise typer.Exit(status)


class Pipeline:
    """The stages one after another; each is told what the one before it left."""

    def __init__(
        self,
        origins: Sequence[RepositorySpec],
        settings: Settings,
        engine: str,
        device: str,
        verbose: bool,
        reporter: PipelineReporter,
    ) -> None:
        self.origins = origins
        self.name = "+".join(origin.repository.name for origin in origins)
        self.asked, self.engine = engine, choose_engine(engine, device, settings.training.weights)
        self.chooser, self.device, self.verbose, self.reporter = SettingChooser(settings), device, verbose, reporter

    def run(self, output: Path, long_context: bool) -> int:
        """Walk; return the exit status (130 when Ctrl-C stopped the training, saved and ready to go on)."""
        from longrepo.training.checkpoint import trained_folder

        reporter = self.reporter
        places = [f"{origin.repository.name} at {origin.commit[:10]}" for origin in self.origins]
        reporter.stage(1, 4, "look", ", ".join(places))
        for note in dict.fromkeys(note for origin in self.origins for note in origin.repository.notes):
            reporter.note(note)
        self._look()
        reporter.choices(latest_choices(self.chooser.choices))
        sequences, header = self._prepare(output, long_context)
        run, status = self._train(output, sequences, header)
        if status:
            return status
        settings = self.chooser.settings
        measured = self._evaluate(output, run, sequences, header)
        reporter.use(run / trained_folder(settings), settings.model.name, run, settings.training.report_to)
        self._report(run, measured)
        return 0

    def _look(self) -> None:
        from longrepo.memory.budget import find_budget
        from longrepo.memory.planner import MemoryPlanner

        settings = self.chooser.settings
        kind, dtype, choices = select_device(self.engine, self.device, settings.training.precision)
        planner = MemoryPlanner.of(settings, kind, dtype, engine=self.engine.name)
        budget = find_budget(kind, settings.memory.budget_gb)
        for what, why in (self.engine.line, *choices):
            key, value = what.split(": ")
            self.chooser.choices.append(SettingChoice(key, value, why))
        choose_lengths(self.chooser, budget, PhaseFits(planner, budget))

    def _prepare(self, output: Path, long_context: bool) -> tuple[Path, Header]:
        from longrepo.data.dataset import read_sequences
        from longrepo.data.prepare import SEQUENCES_FOLDER, prepare, write_prepared
        from longrepo.data.tokenizer import load_tokenizer
        from longrepo.data.windows import build_windows
        from longrepo.reports.sequences import show_preparation

        settings = self.chooser.settings
        tokenizer: RepoTokenizer = load_tokenizer(
            settings.model.name, settings.model.revision, settings.data.structure_tokens
        )
        longest = make_schedule(settings)[-1]
        stage = PipelineStage(
            output,
            "sequences",
            {
                "origins": [[one.repository.name, one.commit, one.weight] for one in self.origins],
                "tokenizer": tokenizer.sha256,
                "phases": longest.number,
                "length": settings.model.max_position_embeddings,
                "long_context": long_context,
                "settings": [settings_hash(part) for part in (settings.data, settings.long_context)],
                "seed": settings.training.seed,
            },
        )
        self.reporter.stage(2, 4, "prepare", "done before, unchanged: skipped" if stage.done else "")
        sequences = stage.folder / SEQUENCES_FOLDER
        if not stage.done:
            began = time.monotonic()
            length = settings.model.max_position_embeddings
            with prepare_tools(settings, None, self.verbose, self.engine) as ready:
                if long_context:
                    prepared = prepare(self.origins, settings, ready, longest.number, length)
                else:
                    length = max(length, longest.max_length)
                    prepared = build_windows(self.origins, settings, ready, length, settings.data.overlap)
                header = write_prepared(stage.folder, prepared, ready.watch)
            show_preparation(self.reporter.console, header, prepared.summary, str(sequences), time.monotonic() - began)
            stage.finish(repositories={one.repository.name: str(one.repository.path) for one in self.origins})
        return sequences, read_sequences(sequences).header

    def _train(self, output: Path, sequences: Path, header: Header) -> tuple[Path, int]:
        trained = {int(phase): cell["sequences"] for phase, cell in header.counts.get("train", {}).items()}
        before = len(self.chooser.choices)
        choose_amounts(self.chooser, trained)
        settings = self.chooser.settings
        if not any(phase.epochs for phase in make_schedule(settings)):
            raise InputError(
                f"{self.name}: {sum(trained.values())} training sequences are too few for any phase; "
                "lower long_context.phase1_max_length or give a larger repository"
            )
        inputs = {"sequences": header.content_sha256, "settings": settings.model_dump(mode="json")}
        stage = PipelineStage(output, "training", inputs)
        self.reporter.stage(3, 4, "train", "done before, unchanged: skipped" if stage.done else str(stage.folder))
        if stage.done:
            return stage.folder, 0
        self.reporter.choices(latest_choices(self.chooser.choices[before:]))
        file = output / f"{stage.folder.name}.yaml"
        write_text_file(file, dump_yaml(settings))
        status = run_training(
            TrainArguments(
                config=file,
                sequences=sequences,
                output=stage.folder,
                epochs=None,
                checkpoint=None,
                resume="auto" if stage.folder.exists() else None,
                overrides=(),
                device=self.device,
                engine=self.asked,
                verbose=self.verbose,
                go_on=shlex.join(sys.orig_argv),  # its stages know what is done
            )
        )
        if not status:
            stage.finish()
        return stage.folder, status

    def _evaluate(self, output: Path, run: Path, sequences: Path, header: Header) -> bool:
        """Compare base and tuned; whether anything was measured now."""
        from longrepo.evaluation.results import read_evaluation
        from longrepo.evaluation.run import GLANCE, EvaluationRun
        from longrepo.reports.evaluation import print_comparison
        from longrepo.reports.run_record import EVALUATION_FILE
        from longrepo.reports.training import TerminalProgress

        inputs = {"run": run.name, "sequences": header.content_sha256, "amount": str(GLANCE)}
        stage = PipelineStage(output, "evaluation", inputs)
        result = stage.folder / EVALUATION_FILE
        self.reporter.stage(4, 4, "evaluate", "done before, unchanged: skipped" if stage.done else "")
        if not header.counts.get("test"):
            for note in (*header.notes, "nothing is held out to compare base and tuned on"):
                self.reporter.note(note)
            return False
        measure = not stage.done
        if not measure:
            found = read_evaluation(result)
        else:
            repos = [one.repository.path for one in self.origins]
            loaded = EvaluationRun.of(run, sequences, repos, "test", self.engine, self.device)
            found = loaded.measured(GLANCE, (), result, TerminalProgress(self.verbose))
            stage.finish()
        print_comparison(found.comparisons, self.reporter.console)
        for note in found.notes:
            self.reporter.note(note)
        return measure

    def _report(self, run: Path, measured: bool) -> None:
        """The page of the run: its most important figures and where it lies."""
        from longrepo.reports.html.page import REPORT_FILE, make_headlines, write_report
        from longrepo.reports.run_record import read_run_record

        found, page = read_run_record(run), run / REPORT_FILE
        if measured or not page.is_file():
            write_report(found)
        self.reporter.figures(make_headlines(found), page)


@dataclass(frozen=True)
class PhaseFits:
    """What the choices ask of the planner."""

    planner: MemoryPlanner
    budget: Budget

    def reach(self, phase: PhaseConfig) -> int:
        from longrepo.memory.planner import phase_planner

        return phase_planner(self.planner, phase).shape.max_positions

    def first(self, phase: PhaseConfig) -> StepEstimate | None:
        from longrepo.memory.planner import phase_planner

        return phase_planner(self.planner, phase).first_fit(phase.max_length, self.budget.bytes)
