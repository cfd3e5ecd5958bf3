"""An export for mlx-lm: `adapters/`, and `base/` where the base as published won't do; or a model whose weights were
all trained. How to load it."""

from __future__ import annotations

import shlex
from pathlib import Path

from longrepo.config.model_source import model_location
from longrepo.engines.mlx.adapter_files import load_float32
from longrepo.engines.mlx.device import place
from longrepo.engines.mlx.load import load_base
from longrepo.engines.mlx.weights import read_config
from longrepo.errors import InputError
from longrepo.export.card import Use, write_card
from longrepo.export.formats import Choices
from longrepo.export.mlx_adapters import write_mlx_adapters
from longrepo.export.mlx_base import mlx_config, write_mlx_base
from longrepo.export.model_file import differences
from longrepo.export.parts import Parts
from longrepo.export.peft_adapter import PeftAdapter
from longrepo.export.source import Source


def write_mlx(source: Source, choices: Choices, folder: Path, final: Path) -> list[str]:
    """Fill an existing empty folder that is going to be `final`; return lines for the terminal. Raises InputError."""
    parts = Parts.of(source, load_float32)
    adapter, as_published = parts.adapter, choices.quantization is None and not choices.with_base
    if as_published and not (source.whole or source.repositioned) and adapter.rows is None:
        return _adapter_alone(source, adapter, folder, final)
    model_settings = parts.model
    if choices.quantization is not None:
        kind = "none" if choices.quantization == "none" else "nf4"
        model_settings = model_settings.model_copy(update={"quantization": kind})
    placement = place("auto", choices.precision or source.settings.training.precision)
    model, notes = load_base(model_settings, parts.tokenizer, placement.dtype, parts.context)
    differs = differences(model.published, mlx_config(model))
    with_file = bool(differs) and choices.model_file
    part = "" if source.whole else "base"  # a whole model is all there is
    write_mlx_base(folder / part, model, adapter, with_file)
    parts.tokenizer.source.save_pretrained(str(folder / part))
    rows = f", {len(adapter.row_ids)} trained rows in its embedding" if adapter.row_ids else ""
    what = "4-bit" if model_settings.quantization == "nf4" else "not quantised"
    kind = "model" if source.whole else "base"
    lines = [f"{kind}: {final / part} ({model_settings.name}, {what}, {placement.dtype_name}{rows})"]
    lines += [f"  {note}" for note in notes]
    if not source.whole:
        write_mlx_adapters(folder / "adapters", adapter, str(final / "base"), len(model.layers))
        lines += [f"adapter: {final / 'adapters'}"]
    if with_file:
        lines.append(f"mlx-lm's own {model.model_type} differs: {'; '.join(differs)}. The {kind}'s model file mends it")
    elif differs:
        lines.append(f"without a model file this is not what was trained: {'; '.join(differs)}")
    return _with_card(lines, source, folder, final, str(final / part), with_file)


def _adapter_alone(source: Source, adapter: PeftAdapter, folder: Path, final: Path) -> list[str]:
    from transformers import PreTrainedConfig

    name = source.settings.model.name
    where = model_location(name)
    try:
        published, _ = PreTrainedConfig.get_config_dict(where, revision=source.settings.model.revision)
        config = read_config(where, source.settings.model.revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"model {name}: can't be had ({reason}); connect once to download it") from None
    write_mlx_adapters(folder / "adapters", adapter, where, config["num_hidden_layers"])
    lines = [f"adapter: {final / 'adapters'}", f"base: {where} as it is: no structure rows were trained"]
    if differs := differences(config, published):
        own = f"mlx-lm's own {config['model_type']} differs"
        lines.append(f"{own}: {'; '.join(differs)}. --with-base writes a base that doesn't")
    if source.settings.model.quantization == "nf4" and "quantization" not in published:
        lines.append("it was trained on 4 bits of that base: --with-base writes such a one")
    return _with_card(lines, source, folder, final, where, False)


def _with_card(lines: list[str], source: Source, folder: Path, final: Path, base: str, trust: bool) -> list[str]:
    """The lines and the two commands; the same in the folder's model card."""
    holds, options = "a model whose weights were all trained", f"--model {shlex.quote(base)}"
    if not source.whole:
        holds = "an adapter and, where one is needed, its base"
        options += f" --adapter-path {shlex.quote(str(final / 'adapters'))}"
    options += " --trust-remote-code" if trust else ""
    commands = [f"mlx_lm.generate {options} --prompt 'def main'", f"mlx_lm.server {options}"]
    how = "\n\n".join([*(line.strip() for line in lines), "```sh\n" + "\n".join(commands) + "\n```"])
    write_card(folder, source, Use("mlx", f"For mlx-lm: {holds}.", how))
    return [*lines, *commands]
