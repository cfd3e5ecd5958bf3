"""Load settings: a YAML file, then each `--set key=value`, then one report of everything that is wrong, including
values that are valid by themselves but impossible together.

A setting's name is `section.key`, or `section.key[0].name` inside a list of sections. An unknown name is answered with
the setting that was probably meant: by other tools' names, another section, or spelling. `longrepo init` writes the
settings file with every key explained, at its default and commented out.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from longrepo.config.schema import (
    ContextSettings,
    LongContextSettings,
    ModelSettings,
    PhaseConfig,
    Settings,
    phase_list,
)
from longrepo.errors import InputError

_HEAD = """\
# Settings for longrepo (--config). Every key is listed with its default, commented out: remove the `#` before a key to
# set it. What isn't set keeps its default, or is chosen by `longrepo pipeline`. Any command overrides: --set lora.r=16
"""
_KEY = re.compile(r"^  (\w+): ")
_PLAIN = re.compile(r"[\w./@-]+")
_RANGE = re.compile(r"the phase takes \d+–\d+")


def settings_template(values: Mapping[str, object]) -> str:
    """Return the text of a settings file in which only `values` (dotted key → value) are set."""
    every = Path(__file__).with_name("training_config.yaml").read_text(encoding="utf-8")
    lines, section, floor = [_HEAD], "", 0
    for line in every.split("\n\n", 1)[1].split("\n"):
        if line.endswith(":") and not line.startswith(" "):
            section = line[:-1]
        elif found := _KEY.match(line):
            name = f"{section}.{found[1]}"
            cap = values.get(name.replace("min_length", "max_length"))
            if isinstance(cap, int) and "_length" in name:
                line, floor = _RANGE.sub(f"the phase takes {floor + 1}–{cap}", line), cap
            line = _with_setting(line, f"  {found[1]}: {_yaml(values[name])}" if name in values else None)
        lines.append(line)
    return "\n".join(lines)


def _with_setting(line: str, setting: str | None) -> str:
    """Return a line with another setting, or with its own commented out; its comment keeps its column if it can."""
    own, hash_, comment = line.partition(" #")
    text = setting or f"  # {own.strip()}"
    return f"{text.ljust(len(own))} #{comment}" if hash_ else text


def _yaml(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def values_for_model(name: str, reach: int | None) -> dict[str, object]:
    """Return the settings for a model whose positions reach `reach` tokens (None: not known): its name, and shorter
    phases if it can't be trained at the default ones. They are a quarter of its positions, half of them, and all."""
    values: dict[str, object] = {"model.name": name}
    defaults = LongContextSettings()
    if reach is None or reach >= defaults.phase3_max_length or reach < 256:
        return values
    caps = (reach // 4, reach // 2, reach)
    values["model.max_position_embeddings"] = min(reach, ModelSettings().max_position_embeddings)
    values |= {f"long_context.phase{number}_max_length": cap for number, cap in enumerate(caps, 1)}
    values |= {
        f"long_context.phase{number}_min_length": cap * 3 // 4 for number, cap in enumerate(caps, 1) if number > 1
    }
    return values


PathPart = str | int

# The names that PEFT, transformers, TRL, Axolotl and mlx-lm have for our settings; without marks and in lower case.
_OTHER_NAMES = {
    "lora.r": "rank lora_r lora_rank",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout",
    "lora.target_modules": "modules keys lora_target_modules target_layers",
    "model.name": "path id model_id base_model model_name_or_path pretrained_model_name_or_path repo_id",
    "model.max_position_embeddings": "max_length max_seq_length max_seq_len sequence_length sequence_len block_size "
    "context_length cutoff_len model_max_length",
    "model.quantization": "load_in_4bit bits quant_type bnb_4bit_quant_type quantize",
    "model.double_quantization": "bnb_4bit_use_double_quant double_quant",
    "data.redact": "redact_secrets",
    "data.fim_share": "fim_rate",
    "training.base_learning_rate": "lr learning_rate",
    "training.warmup_ratio": "warmup warmup_steps",
    "training.batch_size_reference": "batch_size micro_batch_size per_device_train_batch_size train_batch_size",
    "training.gradient_accumulation_steps": "grad_accumulation_steps gradient_accumulation grad_accum "
    "accumulate_grad_batches",
    "training.use_gradient_checkpointing": "grad_checkpoint gradient_checkpointing activation_checkpointing",
    "training.max_grad_norm": "gradient_clipping clip_grad grad_clip",
    "training.precision": "dtype bf16 fp16 torch_dtype mixed_precision",
    "training.early_stopping_patience": "patience",
    "training.save_every_steps": "save_steps save_every steps_per_save",
    "training.keep_last": "save_total_limit",
    "training.max_updates": "max_steps iters max_iters num_iters",
    "training.max_validation_sequences": "val_batches max_eval_samples eval_iters",
    "training.report_to": "logger log_with wandb mlflow",
    "long_context.phase1_epochs": "epochs num_epochs num_train_epochs",
    "context.method": "rope_type rope_scaling scaling",
    "context.window": "sliding_window",
    "context.factor": "rope_factor scaling_factor",
    "memory.budget_gb": "budget limit limit_gb max_memory memory_limit",
}
_BY_OTHER_NAME = {other: ours for ours, names in _OTHER_NAMES.items() for other in names.split()}


def dotted_key(path: Sequence[PathPart]) -> str:
    """Join a path: `("long_context", "further_phases", 0, "epochs")` → `long_context.further_phases[0].epochs`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field holds, by itself or in a list; None if it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for one in get_args(annotation) if (found := section_in(one))), None)


def nearest_key(path: Sequence[PathPart]) -> str | None:
    """Return the known key that an unknown one was probably meant to be."""
    *above, wrong = path
    if above:
        section: type[BaseModel] | None = Settings
        for part in above:
            if isinstance(part, str) and section is not None and part in section.model_fields:
                section = section_in(section.model_fields[part].annotation)
        if section not in (None, Settings):
            near = _closest(wrong, section.model_fields, 0.75)
            if near and not re.match(r"phase[4-9]", str(wrong)):
                return dotted_key((*above, near))
            return nearest_name(str(wrong)) or _in_section(above, wrong, section)
    return nearest_name(str(wrong))


def nearest_name(name: str) -> str | None:
    """Return the setting, or the section, of this name or nearly this name, whichever section it was looked for in."""
    plain = name.lower().replace("-", "_")
    if re.match(r"phase\d", plain):
        plain = re.sub(r"^phase([4-9]|\d\d).*", "further_phases", plain)
    by_last = {key.rpartition(".")[2]: key for key in (*Settings.model_fields, *all_keys())}
    if plain in by_last or plain in _BY_OTHER_NAME:
        return by_last.get(plain) or _BY_OTHER_NAME[plain]
    match = _closest(plain, {**_BY_OTHER_NAME, **by_last}, 0.75)
    return ({**_BY_OTHER_NAME, **by_last}[match]) if match else None


def _in_section(above: Sequence[PathPart], wrong: PathPart, section: type[BaseModel] | None) -> str | None:
    match = _closest(wrong, section.model_fields, 0.5) if section else None
    return dotted_key((*above, match)) if match else None


def all_keys() -> Iterator[str]:
    """Yield the names of all settings: `model.name`, …"""
    for name, field in Settings.model_fields.items():
        section = section_in(field.annotation)
        yield from (f"{name}.{key}" for key in (section.model_fields if section else ()))


def path_override(path: str | None) -> tuple[str, ...]:
    """Return the override that reads only this folder of the repositories; none without a path."""
    return (f"data.path={json.dumps(path)}",) if path else ()


def _closest(word: PathPart, known: Any, cutoff: float) -> str | None:
    match = difflib.get_close_matches(str(word), list(known), n=1, cutoff=cutoff)
    return match[0] if match else None


_SETTING_NAME = re.compile(r"\w+(\.\w+|\[\d+\])*")


def parse_key(key: str) -> tuple[PathPart, ...] | None:
    """Parse a setting's name into its path; None if it isn't the name of a setting inside a section."""
    if not _SETTING_NAME.fullmatch(key):
        return None
    parts = tuple(int(part) if part.isdecimal() else part for part in re.findall(r"\w+", key))
    deep = len(parts) > 3 and isinstance(parts[2], int)
    return parts if len(parts) == 2 or deep else None


def error_path(location: Sequence[PathPart]) -> tuple[PathPart, ...]:
    """Return a validation error's path, without what pydantic adds for members of a union or items of a value."""
    path: list[PathPart] = []
    section: type[BaseModel] | None = Settings
    for part in location:
        if section is None:
            break
        path.append(part)
        if isinstance(part, str):
            field = section.model_fields.get(part)
            section = section_in(field.annotation) if field else None
    return tuple(path)


def find_impossible_combinations(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield (key, what is wrong and what was expected) for each impossible combination."""
    data, model, phases = settings.data, settings.model, phase_list(settings)
    if data.overlap >= model.max_position_embeddings:
        yield (
            "data.overlap",
            f"must be below model.max_position_embeddings ({model.max_position_embeddings}), got {data.overlap}",
        )
    if data.commit_share + data.question_share >= 1:
        yield (
            "data.question_share",
            "data.commit_share and data.question_share must leave room for files: expected a sum below 1, "
            f"got {data.commit_share + data.question_share:g}",
        )
    if settings.training.weights == "all" and model.quantization != "none":
        yield "training.weights", "all needs model.quantization=none: 4-bit weights can't be trained themselves"
    if settings.training.weights == "all" and settings.lora.final_scale != 1:
        yield "lora.final_scale", "scales an adapter, and training.weights=all trains none: leave it out"
    yield from _context_problems(settings.context, "context.")
    if settings.context.method != "none" and settings.context.target_length is None:
        how = f"context.method={settings.context.method} needs a length to reach, in tokens, such as 16384"
        yield "context.target_length", how
    yield from _length_problems(phases)
    yield from _phase_context_problem(phases)
    on = [phase for phase in phases if phase.enabled is not False]
    if not any(phase.epochs for phase in on):
        yield phases[0].setting("epochs"), "every phase has 0 epochs or is disabled: nothing would be trained"
    for before, phase in pairwise(on):
        if phase.enabled == "auto" and before.epochs == 0:
            yield phase.setting("enabled"), f"auto judges phase {before.number}, which has 0 epochs: use true or false"


def _context_problems(context: ContextSettings, prefix: str) -> Iterator[tuple[str, str]]:
    if context.method == "none" and context.factor is not None:
        yield f"{prefix}factor", f"{prefix}method=none scales nothing: set a method, or leave the factor out"
    if context.method != "longrope" and context.long_factors is not None:
        yield f"{prefix}long_factors", f"only {prefix}method=longrope takes them, got {context.method}"


def _length_problems(phases: Sequence[PhaseConfig]) -> Iterator[tuple[str, str]]:
    for before, phase in pairwise(phases):
        below, cap, low = before.max_length, phase.max_length, phase.min_length
        name = before.setting("max_length").removeprefix("long_context.")
        if below >= cap:
            yield phase.setting("max_length"), f"must be above {name} ({below}), got {cap}"
        elif not below < low <= cap:
            own = phase.setting("max_length").removeprefix("long_context.")
            yield phase.setting("min_length"), f"must be above {name} ({below}) and at most {own} ({cap}), got {low}"


def _phase_context_problem(phases: Sequence[PhaseConfig]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a phase's own positions."""
    for phase in phases:
        if phase.context is None:
            continue
        yield from _context_problems(phase.context, phase.setting("context."))
        target = phase.context.target_length
        if target is not None and target < phase.max_length:
            yield (
                phase.setting("context.target_length"),
                f"must reach the phase's max_length ({phase.max_length}), got {target}",
            )


_MAX_SHOWN = 100  # characters; of a longer override a message shows only the key


class _SettingsLoader(yaml.SafeLoader):
    """Reads `5e-5` as a number (YAML 1.1 wants a dot, and reads text); refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_SettingsLoader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_SettingsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_settings(file: Path | None = None, overrides: Iterable[str] = ()) -> Settings:
    """Load settings from a YAML file and `section.key=value` overrides; all else keeps its default.

    Raises InputError listing every problem at once, each with its file, key and what was expected.
    """
    tree = _read_yaml(file) if file else {}
    origin = dict.fromkeys(_leaf_paths(tree), str(file))
    problems: list[str] = []
    for override in overrides:
        _apply_override(tree, override, origin, problems)
    settings = _validate(tree, origin, str(file) if file else "settings", problems)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise InputError(f"{count} in the settings:\n  " + "\n  ".join(problems) if len(problems) > 1 else problems[0])
    return settings


def _validate(tree: dict[str, Any], origin: dict[str, str], file: str, problems: list[str]) -> Settings:
    """Return settings from what is valid in the tree. What isn't is explained in `problems` and keeps its default, so
    that impossible combinations among the rest are reported too."""
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        errors: dict[tuple[PathPart, ...], list[Any]] = {}
        for one in error.errors():  # a union reports each member it tried
            errors.setdefault(error_path(one["loc"]), []).append(one)
        problems += (_explain_errors(path, found, origin, file) for path, found in errors.items())
        wrong = {path[:2] for path in errors}
        valid = {
            section: {k: v for k, v in body.items() if (section, k) not in wrong} if isinstance(body, dict) else body
            for section, body in tree.items()
            if (section,) not in wrong
        }
        settings = Settings.model_validate(valid)
    for key, problem in find_impossible_combinations(settings):
        problems.append(f"{_where_set(key, origin, file)}: {key}: {problem}")
    return settings


def settings_hash(part: BaseModel) -> str:
    """Return the first 16 hex digits of the SHA-256 of a section's values; equal settings have equal hashes."""
    return hashlib.sha256(json.dumps(part.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]


def dump_yaml(settings: Settings) -> str:
    """Return the resolved settings as YAML; `load_settings` reads back the same values."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{file}: no such settings file; give one with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: can't be read as a settings file ({error}); give a YAML text file") from None
    try:
        tree = yaml.load(text, _SettingsLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        raise InputError(f"{where}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"{file}: expected sections such as `model:` and `training:`, found {type(tree).__name__}")
    return {section: {} if body is None else body for section, body in tree.items()}  # `lora:` alone sets nothing


def _apply_override(tree: dict[str, Any], override: str, origin: dict[str, str], problems: list[str]) -> None:
    key, equals, text = override.partition("=")
    path = parse_key(key.strip())
    if not equals or path is None:
        meant = nearest_name(key.strip()) if equals else None
        hint = f"; did you mean {meant}={text}?" if meant and "." in meant else ""
        problems.append(f"--set {override}: expected section.key=value, such as lora.r=16{hint}")
        return
    try:
        value = yaml.load(text, _SettingsLoader)
    except yaml.YAMLError:
        value = text
    *above, last = path
    inside: Any = tree
    for place, part in enumerate(above):
        if isinstance(part, int):
            if not isinstance(inside, list) or part >= len(inside):
                problems.append(
                    f"--set {override}: there is no {dotted_key(path[: place + 1])}; add it in a settings file"
                )
                return
            inside = inside[part]
        elif isinstance(inside, dict):
            inside = inside.setdefault(part, [] if isinstance(path[place + 1], int) else {})
    if not isinstance(inside, dict):
        return  # the validation names this section's wrong type
    inside[str(last)] = value
    origin.setdefault(str(path[0]), f"--set {override}")
    origin[dotted_key(path)] = f"--set {override}" if len(override) < _MAX_SHOWN else f"--set {dotted_key(path)}=…"


def _leaf_paths(tree: dict[str, Any]) -> Iterator[str]:
    for section, keys in tree.items():
        yield str(section)
        if isinstance(keys, dict):
            yield from (f"{section}.{key}" for key in keys)


def _explain_errors(path: tuple[PathPart, ...], errors: list[Any], origin: dict[str, str], file: str) -> str:
    error = errors[0]
    key = dotted_key(path)
    where = _where_set(key, origin, file)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key {key}" + (f"; did you mean {meant}?" if (meant := _meant(path, error)) else "")
    if error["type"] == "missing":
        return f"{where}: {key} is missing: give it a value"
    wanted = " or ".join(
        message.removeprefix("Input should be ") for message in dict.fromkeys(one["msg"] for one in errors)
    )
    return f"{where}: {key}: expected {wanted.replace('a valid tuple', 'a list')}, got {error.get('input')!r}"


def _meant(path: tuple[PathPart, ...], error: Any) -> str | None:
    """Return what an unknown key was meant to be; of an unknown section, what its keys were meant to be."""
    if found := nearest_key(path):
        return found
    inside = error.get("input")
    keys = [nearest_name(str(key)) for key in inside] if len(path) == 1 and isinstance(inside, dict) else []
    return " and ".join(dict.fromkeys(key for key in keys if key)) or None


def _where_set(key: str, origin: dict[str, str], file: str) -> str:
    """Return the file or override that sets a key, or the list that contains it."""
    return origin.get(key) or origin.get(key.partition("[")[0], file)
