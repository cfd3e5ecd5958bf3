"""An export for mlx-lm: `adapters/`, and `base/` where the base as published won't do; how to load them."""

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
from longrepo.export.peft_adapter import PeftAdapter, read_peft
from longrepo.export.source import Source
from longrepo.sequences.tokenizer import load_tokenizer


def write_mlx(source: Source, choices: Choices, folder: Path, final: Path) -> list[str]:
    """Fill an existing empty folder that is going to be `final`; return lines for the terminal. Raises InputError."""
    adapter = read_peft(source.adapter, load_float32)
    if adapter.rows is None and not (choices.with_base or source.repositioned) and choices.quantization is None:
        return _adapter_alone(source, adapter, folder, final)
    model_settings = source.settings.model
    if choices.quantization is not None:
        kind = "none" if choices.quantization == "none" else "nf4"
        model_settings = model_settings.model_copy(update={"quantization": kind})
    placement = place("auto", choices.precision or source.settings.training.precision)
    tokenizer = load_tokenizer(source.tokenizer, model_settings.revision, source.settings.data.structure_tokens)
    model, notes = load_base(model_settings, tokenizer, placement.dtype, source.settings.context)
    differs = differences(model.published, mlx_config(model))
    with_file = bool(differs) and choices.model_file
    write_mlx_base(folder / "base", model, adapter, with_file)
    tokenizer.source.save_pretrained(str(folder / "base"))
    write_mlx_adapters(folder / "adapters", adapter, str(final / "base"), len(model.layers))
    rows = f", {len(adapter.row_ids)} trained rows in its embedding" if adapter.row_ids else ""
    what = "4-bit" if model_settings.quantization == "nf4" else "not quantised"
    lines = [f"base: {final / 'base'} ({model_settings.name}, {what}, {placement.dtype_name}{rows})"]
    lines += [f"  {note}" for note in notes]
    lines += [f"adapter: {final / 'adapters'}"]
    if with_file:
        lines.append(f"mlx-lm's own {model.model_type} differs: {'; '.join(differs)}. The base's model file mends it")
    elif differs:
        lines.append(f"without a model file this is not what was trained: {'; '.join(differs)}")
    return _with_card(lines, source, folder, final, str(final / "base"), with_file)


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
    options = f"--model {shlex.quote(base)} --adapter-path {shlex.quote(str(final / 'adapters'))}"
    options += " --trust-remote-code" if trust else ""
    commands = [f"mlx_lm.generate {options} --prompt 'def main'", f"mlx_lm.server {options}"]
    how = "\n\n".join([*(line.strip() for line in lines), "```sh\n" + "\n".join(commands) + "\n```"])
    write_card(folder, source, Use("mlx", "For mlx-lm: an adapter and, where one is needed, its base.", how))
    return [*lines, *commands]
