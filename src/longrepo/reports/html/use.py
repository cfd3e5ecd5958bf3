"""How to use what a run left, as commands to copy."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from longrepo.reports.html.run import Run


@dataclass(frozen=True)
class Command:
    """What it does, and the line (or lines of Python)."""

    what: str
    line: str


def commands(run: Run) -> list[Command]:
    """Of a finished run what its adapter or model is for; of another one how to go on."""
    path = shlex.quote(str(run.path))
    if not run.finished:
        sequences = shlex.quote(run.snapshot.identity.sequences if run.snapshot else "SEQUENCES")
        line = f"longrepo train --config {path}/settings.yaml --sequences {sequences} --output {path} --resume auto"
        return [Command("Go on exactly where it stopped", line)]
    found = [] if run.evaluation else [Command("Compare base and tuned", f"longrepo evaluate {path}")]
    return [
        *found,
        Command(
            "Complete a line, with what the repository holds around it",
            f"longrepo generate {path} --file FILE --line N",
        ),
        Command("For an editor", f"longrepo serve {path}"),
        *(_of_model(run, path) if run.whole else _of_adapter(run, path)),
        Command("For mlx-lm", f"longrepo export {path} --format mlx --output DIR"),
    ]


def _of_adapter(run: Run, path: str) -> list[Command]:
    return [
        Command("For transformers and PEFT", f"longrepo export {path} --format peft --output DIR"),
        Command("In Python", _PYTHON.format(adapter=str(run.trained), base=run.settings.model.name)),
    ]


def _of_model(run: Run, path: str) -> list[Command]:
    return [
        Command("In 16 bits, with a model card", f"longrepo export {path} --format merged --output DIR"),
        Command("In Python", _WHOLE.format(model=str(run.trained))),
    ]


_WHOLE = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({model!r})
model = AutoModelForCausalLM.from_pretrained({model!r})"""
_PYTHON = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({adapter!r})
model = AutoModelForCausalLM.from_pretrained({base!r})
if len(tokenizer) > model.get_input_embeddings().num_embeddings:
    model.resize_token_embeddings(len(tokenizer))
model = PeftModel.from_pretrained(model, {adapter!r})"""
