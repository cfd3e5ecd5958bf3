"""Adapter and optimizer files, which are the same for every engine; no framework is imported here.

The adapter is in PEFT's own format, trained structure-token rows included, so any tool that knows PEFT loads it.
AdamW's complete state is one safetensors file: no pickles, bit-identical when read back.

An engine other than torch names a LoRA layer by its module's path in the model (`model.layers.0.self_attn.q_proj`) and
its two matrices `lora_a` `[in, r]` and `lora_b` `[r, out]`; PEFT stores both transposed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

from longrepo.config.schema import Settings
from longrepo.engines.lora_config import MERGE_IT, LoraScheme, check_plain_lora, module_names
from longrepo.errors import InputError

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
EMBEDDING_MODULE = "model.embed_tokens"
TOKEN_ROWS_PATH = "rows"  # the path of the structure tokens' trained rows
_PREFIX = "base_model.model."
_LORA_MATRICES = {"lora_a": "lora_A", "lora_b": "lora_B"}

Array = npt.NDArray[np.float32]
TensorShapes = Mapping[str, Sequence[int]]
MOMENT_NAMES = ("exp_avg", "exp_avg_sq")
Moments = tuple[Array, Array]  # of the gradient and of its square


def tensor_name(path: str) -> str:
    """Return the name in the adapter's file of a trained path (`<module>.lora_a`, `<module>.lora_b` or `rows`)."""
    if path == TOKEN_ROWS_PATH:
        return f"{_PREFIX}{EMBEDDING_MODULE}.token_adapter.trainable_tokens_delta"
    module, _, matrix = path.rpartition(".")
    return f"{_PREFIX}{module}.{_LORA_MATRICES[matrix]}.weight"


def parameter_name(path: str) -> str:
    """Return the name of a trained path in the torch engine, and so in the optimizer's file."""
    if path == TOKEN_ROWS_PATH:
        return f"{_PREFIX}{EMBEDDING_MODULE}.rows.weight"
    module, _, matrix = path.rpartition(".")
    return f"{_PREFIX}{module}.{_LORA_MATRICES[matrix]}.default.weight"


def lora_path(tensor: str) -> str | None:
    """Return the path of a LoRA matrix in an adapter's file, or None if the tensor is something else."""
    for ours, theirs in _LORA_MATRICES.items():
        if tensor.startswith(_PREFIX) and tensor.endswith(f".{theirs}.weight"):
            return f"{tensor.removeprefix(_PREFIX).removesuffix(f'.{theirs}.weight')}.{ours}"
    return None


def adapter_config(settings: Settings, row_ids: list[int] | None) -> dict[str, Any]:
    """Return `adapter_config.json` of a LoRA adapter; PEFT's defaults apply to the keys it omits."""
    lora = settings.lora
    return lora_config(settings.model.name, lora.r, lora.alpha, lora.dropout, lora.module_names, row_ids)


def lora_config(
    base: str | None, r: int, alpha: float, dropout: float, modules: Iterable[str], row_ids: list[int] | None
) -> dict[str, Any]:
    """Like `adapter_config`, from the values themselves."""
    return {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": r,
        "target_modules": sorted(modules),
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": row_ids,
        "use_dora": False,
        "use_rslora": False,
    }


def write_adapter(folder: Path, tensors: Mapping[str, Array], config: Mapping[str, Any]) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors` (`tensors` by PEFT's names) into an existing
    folder."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True, default=_json_value)
    (folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")


def scale_adapter(folder: Path, scale: float) -> None:
    """Multiply the update that a folder's adapter adds to its base's weights: its B matrices. Trained rows of structure
    tokens stay."""
    file = folder / ADAPTER_WEIGHTS
    tensors = _read_weights(file)
    for name, tensor in tensors.items():
        if name.endswith(f".{_LORA_MATRICES['lora_b']}.weight"):
            tensor *= np.float32(scale)
    save_file(tensors, file, metadata={"format": "pt"})


def read_adapter(folder: Path, shapes: TensorShapes) -> dict[str, Array]:
    """Read a folder's adapter, by PEFT's names; `shapes` are the model's own. Raises InputError if it can't be read, or
    was made for another model or other LoRA settings."""
    file = folder / ADAPTER_WEIGHTS
    saved = _read_weights(file)
    if (folder / ADAPTER_CONFIG).is_file():
        saved = _as_plain_lora(saved, shapes, read_lora_scheme(folder))
    found = {name: tensor.shape for name, tensor in saved.items()}
    wrong = sorted(shapes.keys() ^ found.keys()) or [n for n in sorted(shapes) if tuple(shapes[n]) != found[n]]
    if wrong:
        raise InputError(
            f"{file}: made for another base model, other LoRA settings or other structure tokens "
            f"(first difference: {wrong[0]}); use the settings.yaml of the run it comes from"
        )
    return saved


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return a folder's `adapter_config.json`. Raises InputError if it can't be read."""
    try:
        tree = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / ADAPTER_CONFIG}: can't be read ({error}); give an adapter's folder") from None
    if not isinstance(tree, dict):
        raise InputError(f"{folder / ADAPTER_CONFIG}: isn't an adapter's configuration; give an adapter's folder")
    return tree


def read_lora_scheme(folder: Path) -> LoraScheme:
    """Read how a folder's adapter is built. Raises InputError if it can't be read or isn't plain LoRA."""
    config = read_adapter_config(folder)
    check_plain_lora(config, folder / ADAPTER_CONFIG)
    return LoraScheme(config)


def read_lora_modules(folder: Path) -> tuple[str, ...]:
    """Return the last names of the modules that an adapter's file holds LoRA of: `lora.target_modules` for it. Raises
    InputError if the file can't be read, or has something else than LoRA in a decoder's layers."""
    file = folder / ADAPTER_WEIGHTS
    try:
        with safe_open(file, framework="np") as opened:
            names = [name for name in opened.keys() if name != tensor_name(TOKEN_ROWS_PATH)]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise unreadable_adapter(file, error) from None
    return module_names(path.rpartition(".")[0] for path in map(partial(_checked_lora_path, file), names))


@dataclass(frozen=True)
class PlainLora:
    """An adapter as LoRA of one rank `r` and one `scale`: float32 `lora_a` `[r, in]` and `lora_b` `[out, r]` by path,
    and `rows` `[k, hidden]`, the trained embedding rows of the token ids `row_ids`."""

    r: int
    scale: float
    dropout: float
    tensors: dict[str, Array]
    row_ids: tuple[int, ...]
    rows: Array | None


def read_plain_lora(folder: Path) -> PlainLora:
    """Read any adapter that is LoRA on the published base. Raises InputError if it isn't, or can't be read."""
    scheme, file = read_lora_scheme(folder), folder / ADAPTER_WEIGHTS
    saved = _read_weights(file)
    rows = saved.pop(tensor_name(TOKEN_ROWS_PATH), None)
    paths = {_checked_lora_path(file, name): tensor for name, tensor in saved.items()}
    tensors: dict[str, Array] = {}
    for module in sorted({path.rpartition(".")[0] for path in paths}):
        first, second = (paths.get(f"{module}.{matrix}") for matrix in _LORA_MATRICES)
        if first is None or second is None or len(first) != scheme.rank(module):
            raise InputError(f"{file}: LoRA of {module} isn't of the rank in {ADAPTER_CONFIG}; save the adapter again")
        pair = scheme.plain(module, first, second, scheme.largest_rank)
        tensors |= dict(zip((f"{module}.{matrix}" for matrix in _LORA_MATRICES), pair, strict=True))
    ids = scheme.config.get("trainable_token_indices") or []
    ids = [id for some in ids.values() for id in some] if isinstance(ids, dict) else ids
    if len(ids) != (0 if rows is None else len(rows)):
        raise InputError(
            f"{folder}: {ADAPTER_CONFIG} names {len(ids)} trained tokens, but {ADAPTER_WEIGHTS} has "
            f"{0 if rows is None else len(rows)} rows for them"
        )
    dropout = float(scheme.config.get("lora_dropout", 0.0))
    return PlainLora(scheme.largest_rank, scheme.own_scale, dropout, tensors, tuple(ids), rows)


def _checked_lora_path(file: Path, name: str) -> str:
    path = lora_path(name)
    if path is None:
        raise InputError(f"{file}: only plain LoRA of linear layers is supported, but this has {name}; {MERGE_IT}")
    return path


def _as_plain_lora(saved: Mapping[str, Array], shapes: TensorShapes, scheme: LoraScheme) -> dict[str, Array]:
    """Return the file's tensors as an engine has them, which gives all modules one rank and one scale: zeros where the
    configuration leaves out a module, and for the rank that one lacks."""
    plain = dict(saved)
    for module in {path.rpartition(".")[0] for name in shapes if (path := lora_path(name))}:
        names = [tensor_name(f"{module}.{matrix}") for matrix in _LORA_MATRICES]
        if shapes[names[0]][0] != scheme.largest_rank:
            continue  # other LoRA settings
        if all(name in saved for name in names):
            pair = scheme.plain(module, saved[names[0]], saved[names[1]], shapes[names[0]][0])
            plain |= dict(zip(names, pair, strict=True))
        elif not any(name in saved for name in names) and not scheme.has(module):
            plain |= {name: np.zeros(tuple(shapes[name]), np.float32) for name in names}
    return plain


def write_optimizer(file: Path, state: Mapping[str, Array]) -> None:
    """Write `<parameter>/<exp_avg|exp_avg_sq|step>` for each parameter that has been updated, by the torch engine's
    names."""
    save_file({name: np.asarray(tensor, order="C") for name, tensor in state.items()}, file)


def read_optimizer(file: Path, shapes: TensorShapes) -> dict[str, Array]:
    """Read the state that `write_optimizer` wrote; `shapes` are those of the trained parameters, by the torch engine's
    names. A parameter without state, or a frozen one, is absent. Raises InputError if the parameters differ."""
    try:
        saved = _read_float32(file)
    except (OSError, TypeError, SafetensorError) as error:
        raise _unreadable_optimizer(file, error) from None
    unknown = {key.rpartition("/")[0] for key in saved} - shapes.keys()
    if unknown:
        raise InputError(f"{file}: state of unknown parameters ({min(unknown)}); the LoRA settings differ")
    for key, tensor in sorted(saved.items()):
        name, _, part = key.rpartition("/")
        if part in MOMENT_NAMES and tensor.shape != tuple(shapes[name]):
            raise InputError(f"{file}: moments of another shape ({name}); the LoRA settings differ")
    return saved


def write_moments(file: Path, moments: Mapping[str, Moments], step: int) -> None:
    """Like `write_optimizer`, for moments by parameter, after `step` updates of each."""
    state: dict[str, Array] = {}
    for name, both in moments.items():
        state |= {f"{name}/{part}": moment for part, moment in zip(MOMENT_NAMES, both, strict=True)}
        state[f"{name}/step"] = np.array(step, np.float32)
    write_optimizer(file, state)


def read_moments(file: Path, shapes: TensorShapes) -> tuple[dict[str, Moments], int]:
    """Read the moments by parameter and the number of updates. Raises InputError as `read_optimizer` does, and if a
    part is missing or the numbers of updates differ."""
    saved = read_optimizer(file, shapes)
    moments, steps = {}, set()
    for name in sorted({key.rpartition("/")[0] for key in saved}):
        try:
            first, second = (saved[f"{name}/{part}"] for part in MOMENT_NAMES)
            steps.add(int(saved[f"{name}/step"]))
        except KeyError as missing:
            raise _unreadable_optimizer(file, KeyError(f"no {missing.args[0]}")) from None
        moments[name] = first, second
    if len(steps) > 1:
        raise InputError(f"{file}: its parameters were updated {sorted(steps)} times; use another checkpoint")
    return moments, steps.pop() if steps else 0


def unreadable_adapter(file: Path, error: Exception) -> InputError:
    return InputError(f"{file}: can't be read as an adapter ({error}); give a folder in PEFT's format")


def _unreadable_optimizer(file: Path, error: Exception) -> InputError:
    return InputError(f"{file}: can't be read as an optimizer's state ({error}); use another checkpoint")


def _read_weights(file: Path) -> dict[str, Array]:
    try:
        return _read_float32(file)
    except (OSError, TypeError, SafetensorError) as error:
        raise unreadable_adapter(file, error) from None


def _read_float32(file: Path) -> dict[str, Array]:
    """Read a safetensors file. Raises OSError, SafetensorError, or TypeError for a type that NumPy lacks."""
    with safe_open(file, framework="np") as opened:
        types = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118  # not a mapping
        tensors = {
            name: opened.get_tensor(name).astype(np.float32, copy=False)
            for name, dtype in types.items()
            if dtype != "BF16"
        }
    if len(tensors) < len(types):  # NumPy has no bfloat16: its bits are the upper half of a float32's
        for name, stored in deserialize(file.read_bytes()):
            if types[name] == "BF16":
                bits = np.frombuffer(stored["data"], np.uint16).astype(np.uint32) << 16
                tensors[name] = bits.view(np.float32).reshape(stored["shape"])
    return tensors


def _json_value(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)
