"""AdamW's whole state as safetensors: one file, no pickles, bit-identical when read back."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from longrepo.engines.peft_names import unknown_parameter, unreadable_optimizer

Named = dict[str, torch.nn.Parameter]


def write_optimizer(file: Path, optimizer: torch.optim.Optimizer, parameters: Named) -> None:
    """Write `<parameter>/<exp_avg|exp_avg_sq|step>` for each parameter that has been updated yet."""
    save_file(
        {
            f"{name}/{key}": value.detach().cpu().contiguous()
            for name, parameter in parameters.items()
            for key, value in optimizer.state.get(parameter, {}).items()
        },
        file,
    )


def read_optimizer(file: Path, optimizer: torch.optim.Optimizer, parameters: Named) -> None:
    """Replace the optimizer's state with the file's. Raises InputError where the parameters differ."""
    try:
        saved = load_file(file)
    except (OSError, SafetensorError) as error:
        raise unreadable_optimizer(file, error) from None
    unknown = {key.rpartition("/")[0] for key in saved} - parameters.keys()
    if unknown:
        raise unknown_parameter(file, min(unknown))
    optimizer.state.clear()
    for key, value in saved.items():
        name, _, part = key.rpartition("/")
        parameter = parameters[name]
        # AdamW keeps its step counts on the CPU, the moments beside the parameter.
        optimizer.state[parameter][part] = value if part == "step" else value.to(parameter.device)
