"""What a model is exported from: published weights, and what is merged into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrepo.config.schema import ContextSettings, ModelSettings
from longrepo.context.change import OWN
from longrepo.export.peft_adapter import PeftAdapter, read_peft
from longrepo.export.source import Source
from longrepo.sequences.tokenizer import RepoTokenizer, load_tokenizer

_NOTHING = PeftAdapter(r=1, scale=0.0, dropout=0.0, lora={}, row_ids=(), rows=None)


@dataclass(frozen=True)
class Parts:
    """`model`: whose weights; `context`: the positions to give it; `adapter`: what is merged in. A model whose weights
    were all trained has its positions and the rows of its tokens already, and nothing to merge."""

    model: ModelSettings
    tokenizer: RepoTokenizer
    context: ContextSettings
    adapter: PeftAdapter

    @staticmethod
    def of(source: Source, load: Callable[[Path], Mapping[str, Any]]) -> Parts:
        """`load` as in `read_peft`. Raises InputError where the adapter or the tokenizer can't be read."""
        settings = source.settings
        tokenizer = load_tokenizer(source.tokenizer, settings.model.revision, settings.data.structure_tokens)
        if not source.whole:
            return Parts(settings.model, tokenizer, settings.context, read_peft(source.adapter, load))
        tokenizer.initial_from = {}
        model = settings.model.model_copy(update={"name": str(source.adapter), "revision": None})
        return Parts(model, tokenizer, OWN, _NOTHING)
