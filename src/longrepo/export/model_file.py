"""Where mlx-lm's own models compute something else than a configuration says, and the model file that mends it.

The file is put together from the engine's own sources, so that an export computes what the engine does; it imports
mlx and mlx_lm alone, and mlx-lm runs it where told `--trust-remote-code`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from longrepo.engines.mlx.fidelity import families, model, rope

MODEL_FILE = "longrepo_model.py"
_ACTIVATIONS = {"starcoder2": "gelu", "gemma": "gelu"}  # of mlx-lm's own classes; the others': silu
_HEAD = '''"""What config.json says, computed with mlx and mlx-lm. Needs --trust-remote-code."""

from __future__ import annotations

import sys
import types

sys.modules.setdefault(__name__, types.ModuleType(__name__))  # dataclasses look their module up there


class InputError(ValueError):
    """What config.json asks for can't be computed."""
'''
_TAIL = """

class ModelArgs:
    def __init__(self, config: Config) -> None:
        self.config = config

    @classmethod
    def from_dict(cls, config: Config) -> ModelArgs:
        return cls(config)


def Model(args: ModelArgs) -> CausalLM:
    return build(args.config)
"""


def differences(config: Mapping[str, Any], read: Mapping[str, Any]) -> list[str]:
    """What mlx-lm's own class computes otherwise than `config` (with transformers' defaults) says, from the config.json
    that it reads."""
    kind, rotary, family = config["model_type"], config["rope_parameters"], families.family_of(dict(config))
    activation, own = config["hidden_act"], _ACTIVATIONS.get(kind, "silu")
    theirs: Any = importlib.import_module(f"mlx_lm.models.{family.module}").ModelArgs.from_dict(dict(read))
    found = []
    if activation.replace("swish", "silu") != own:
        found.append(f"its activation is {own}, not {activation}")
    if windows := {window for window in family.windows(dict(config)) if window}:
        found.append(f"beyond {min(windows)} tokens it attends to all, not to the last {min(windows)}")
    if theirs.rope_theta != rotary["rope_theta"]:
        found.append(f"its rotary base is {theirs.rope_theta:g}, not {rotary['rope_theta']:g}")
    if rotary.get("rope_type", "default") != "default" and not getattr(theirs, "rope_scaling", None):
        found.append(f"its rotary angles are unscaled, not {rotary['rope_type']}")
    if rotary.get("attention_factor") is not None:
        found.append("it computes YaRN's attention_factor itself")
    if (kind == "starcoder2" and not config["use_bias"]) or (kind in ("qwen3", "gemma") and config["attention_bias"]):
        found.append("it has other biases, and can't load this model")
    return found


def model_file() -> str:
    """The text of a model file for any configuration that the MLX engine computes."""
    return "\n\n".join([_HEAD.strip(), *(_body(module) for module in (rope, model, families)), _TAIL.strip()]) + "\n"


def _body(module: ModuleType) -> str:
    """A module's source without its docstring and what it imports from here or from the future."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    for node in ast.parse(source).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ours = isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in ("longrepo", "__future__")
        if docstring or ours:
            lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or node.lineno) - node.lineno + 1)
    return "\n".join(lines).strip()
