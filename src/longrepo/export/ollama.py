"""Export for Ollama: the GGUF files, and a Modelfile that asks in the tokens of training.

Modelfile: docs/modelfile.md of ollama/ollama. A template that names `.Suffix` makes fill-in-the-middle work through
`/api/generate`.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from longrepo.data.dialects import FimMark
from longrepo.data.marks import FILE_END, FILE_START
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.export.adapter import ExportOptions
from longrepo.export.card import CardUse, write_card
from longrepo.export.gguf import LORA_FILE, write_gguf_files
from longrepo.training.artifact import TrainedArtifact
from longrepo.utils.files import write_text_file

MODELFILE = "Modelfile"
_VARIABLES = {"prefix": "{{ .Prompt }}", "suffix": "{{ .Suffix }}", None: ""}


def write_ollama(source: TrainedArtifact, options: ExportOptions, folder: Path, final: Path) -> list[str]:
    """Fill an existing empty folder that will become `final`; return lines for the terminal. Raises InputError."""
    tokenizer = source.load_tokenizer()
    written = write_gguf_files(source, replace(options, with_base=True), folder, final)
    adapter = LORA_FILE if options.adapter_only else None
    text = make_modelfile(tokenizer, str(written.model), adapter, source.settings.model.max_position_embeddings)
    write_text_file(folder / MODELFILE, text)
    name = final.name.lower()
    commands = [f"ollama create {name} -f {MODELFILE}", f"ollama run {name} 'def main('"]
    how = "In this folder:\n\n```sh\n" + "\n".join(commands) + "\n```"
    notes = [*written.notes, *([tokenizer.fim_note] if tokenizer.fim_note else [])]
    write_card(folder, source, CardUse("gguf", "A model for Ollama: GGUF and a Modelfile.", how, notes))
    return [*written.lines, *notes, f"cd {shlex.quote(str(final))} && {commands[0]}"]


def make_modelfile(tokenizer: RepoTokenizer, model: str, adapter: str | None, tokens: int) -> str:
    """Return the Modelfile of a model file and perhaps an adapter's, for a context of so many tokens.

    Completions are greedy and repeat what code repeats: Ollama's defaults (temperature 0.8, a repeat penalty) are those
    of a chat."""
    lines = [
        f"FROM ./{model}",
        *([f"ADAPTER ./{adapter}"] if adapter else []),
        f'TEMPLATE """{_template(tokenizer)}"""',
    ]
    settings = {"num_ctx": tokens, "temperature": 0, "repeat_penalty": 1}
    lines += [f"PARAMETER {name} {value}" for name, value in settings.items()]
    lines += [f'PARAMETER stop "{name}"' for name in _stops(tokenizer)]
    return "\n".join(lines) + "\n"


def _template(tokenizer: RepoTokenizer) -> str:
    fim = tokenizer.dialect.fim
    if fim is None:
        return "{{ .Prompt }}"
    names: dict[FimMark, str | None] = {"prefix": fim.prefix, "suffix": fim.suffix, "middle": fim.middle}
    gap = "".join((names[mark] or "") + _VARIABLES[text] for mark, text in fim.orders[0].layout)
    return "{{ if .Suffix }}" + gap + "{{ else }}{{ .Prompt }}{{ end }}"


def _stops(tokenizer: RepoTokenizer) -> Iterator[str]:
    """Yield the tokens that no completion has: where another file or a gap begins."""
    dialect, marked = tokenizer.dialect, tokenizer.structure_ids
    yield from (name for name in (FILE_START, FILE_END) if name in marked)
    yield from (dialect.fim.marks if dialect.fim else ())
    others = (dialect.fim.end if dialect.fim else None, dialect.file, dialect.repository)
    yield from (name for name in others if name is not None)
