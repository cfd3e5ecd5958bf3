"""A tuned model that is loaded and ready to complete code."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrepo.config.schema import ContextSettings, Settings
from longrepo.curriculum.schedule import make_schedule
from longrepo.data.template import completion_text
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.engines.base import Engine
from longrepo.engines.prompt_cache import PromptCache, PromptProgress
from longrepo.engines.registry import EngineSelection, cache_library, create_engine
from longrepo.engines.tiers import Tier, TieredEngine, model_tiers
from longrepo.errors import InputError
from longrepo.memory.budget import GIB, available_bytes
from longrepo.serve.prompts import CompletionPrompt, PromptBuilder
from longrepo.serve.sampling import CompletionText, Sampling, ScoredToken
from longrepo.serve.working_tree import WorkingTree
from longrepo.training.artifact import find_artifact

GREEDY = Sampling()


@dataclass(frozen=True)
class TextPart:
    """A part of a completion, which has `new` tokens so far; `finish_reason` ("stop" or "length") is None in all parts
    but the last, `stop_word` is the stop sequence that ended it. `tokens` are those with log-probabilities, if they are
    recorded."""

    text: str
    new: int
    finish_reason: str | None = None
    tokens: tuple[ScoredToken, ...] = ()
    stop_word: str = ""


@dataclass(frozen=True)
class TunedModel:
    """A loaded model. `adaptive` sets the engine's positions for each text; `notes` are lines for the terminal."""

    name: str
    adaptive: TieredEngine
    tokenizer: RepoTokenizer
    settings: Settings
    notes: tuple[str, ...]

    @staticmethod
    def load(
        path: Path, model: str | None, choice: EngineSelection, device: str, context: ContextSettings | None = None
    ) -> TunedModel:
        """Load a model from the folder of a run, a checkpoint or an adapter.

        `model` replaces the base that the folder names; `context` are the positions of texts longer than its own reach.
        Raises InputError if the model isn't available, or the adapter belongs to another base.
        """
        artifact = find_artifact(path)
        source, notes = artifact.on(model), artifact.notes
        settings = source.settings
        base = settings.model
        own = artifact.settings.model.name
        if base.name != own:
            named = f"training began with {own}" if source.whole else f"the adapter names {own} as its base"
            notes += (f"{named}; {base.name} is used, as requested",)
        tiers = model_tiers(base, settings.context, context, _longest_length(settings))
        tokenizer = source.load_tokenizer()
        notes += (tokenizer.fim_note,) if tokenizer.fim_note else ()
        engine = create_engine(choice, settings, tokenizer, device)
        engine.load_adapter(source.adapter)
        name = f"{Path(base.name).name}-{path.resolve().name}"
        return TunedModel(name, TieredEngine(engine, tiers), tokenizer, settings, notes)

    @property
    def engine(self) -> Engine:
        return self.adaptive.engine

    def length(self, wanted: int | None) -> int:
        """Return the tokens of prompt and completion together: `wanted`, or the longest length of the run, as far as
        the positions reach. Raises InputError if `wanted` is more than they reach."""
        tiers = self.adaptive.tiers
        if wanted is not None and wanted > tiers.reach:
            name = self.settings.model.name
            raise InputError(f"--length {wanted}: {name} reaches {tiers.reach} tokens here: {tiers.remedy_for(wanted)}")
        return wanted or min(tiers.reach, _longest_length(self.settings))

    def check_cache(self, tier: Tier, bits: int) -> None:
        """Raise InputError if the engine's library has no cache of `bits` bits for this tier."""
        from longrepo.engines.model_shape import read_config

        config = read_config(self.settings.model.name, self.settings.model.revision, tier.context)
        library = cache_library(self.engine.name)
        if reason := library.unsupported_bits_reason(config, bits, self.engine.device):
            raise InputError(f"--cache-bits {bits}: {reason}; omit it, or see longrepo plan --inference")

    def prompt_cache(self, length: int, slots: int, gib: float | None) -> PromptCache:
        """Return a cache for `slots` prompts of `length` tokens with their answers, in at most `gib` GiB (None: a
        quarter of the memory that this process may hold)."""
        most = available_bytes(self.engine.device) // 4 if gib is None else int(gib * GIB)
        self.adaptive.select_tier(length)
        return PromptCache(min(most, slots * self.engine.kept_bytes(length)) if gib is None else most, slots)

    def prompts(self, length: int | None, repo: Path | None) -> PromptBuilder:
        """Return a builder of prompts of `length` tokens (see there), which show related files if `repo` is given.
        Without a `length`, a text that is used as it is may have as many tokens as the positions reach."""
        around = WorkingTree.read(repo, self.tokenizer, self.settings) if repo is not None else None
        return PromptBuilder(self.tokenizer, self.length(length), around, length or self.adaptive.tiers.reach)

    def stream(
        self,
        prompt: CompletionPrompt,
        sampling: Sampling = GREEDY,
        *,
        choice: int = 0,
        stop: Sequence[str] = (),
        indent: int = 0,
        seconds: float | None = None,
        newline: str | None = None,
        bits: int = 16,
        kept: PromptCache | None = None,
        progress: PromptProgress | None = None,
    ) -> Generator[TextPart]:
        """Complete a prompt: yield a part for each token, and a last one with the reason for the end.

        `choice`: the number of this completion among those of the same `sampling`; `indent`: the least indentation of a
        line after the first; `seconds`: the time after the first token when a text of several lines ends; `newline`:
        line ends of the text (None: those of the prompt); `bits`, `kept` and `progress` as in `Engine.stream`. Exhaust
        or close the generator in the thread that started it."""
        self.adaptive.select_tier(len(prompt.ids) + prompt.new)
        sampler = sampling.sampler(choice)
        text = CompletionText(self.tokenizer, stop, prompt.newline, newline, indent)
        scored: list[ScoredToken] = []

        def take(every: bool) -> tuple[ScoredToken, ...]:
            first = len(scored)
            records = sampler.records[first : len(text.starts)] if sampler else []
            for start, record in zip(text.starts[first:], records, strict=False):
                if every or start < text.sent:
                    scored.append(ScoredToken.of(record, start, self.tokenizer))
            return tuple(scored[first:])

        new, piece, first, late = 0, "", 0.0, False
        options: dict[str, Any] = {"bits": bits, "choose": sampler, "kept": kept, "progress": progress}
        with closing(self.engine.stream(prompt.ids, prompt.new, **options)) as tokens:
            for new, token in enumerate(tokens, start=1):
                first = first or time.perf_counter()
                piece = text.add(token)
                if text.reason:
                    break
                yield TextPart(piece, new, None, take(False))
                late = seconds is not None and text.has_newline and time.perf_counter() - first > seconds
                if late:
                    break
        if text.reason:
            yield TextPart(piece, new, text.reason, take(False), text.stop_word)
        else:
            yield TextPart(text.rest(), new, "length" if late or new == prompt.new else "stop", take(True))

    def complete(self, text: str, max_tokens: int = 64, length: int | None = None) -> str:
        """Return the model's greedy completion of a text; `length` limits the tokens of both together. Raises
        InputError if the text is too long."""
        prompt = self.prompts(length, None).from_text(text, None, max_tokens)
        self.adaptive.select_tier(len(prompt.ids) + max_tokens)
        return completion_text(self.tokenizer, self.engine.generate(prompt.ids, max_tokens))


def _longest_length(settings: Settings) -> int:
    return max(phase.max_length for phase in make_schedule(settings))
