"""Settings: one way in, everything wrong said at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from longrepo.config.loader import dump_yaml, load_settings, settings_hash
from longrepo.config.schema import Settings
from longrepo.errors import InputError

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    file = folder / "settings.yaml"
    file.write_text(text)
    return file


def test_the_shipped_file_holds_every_key_with_its_default() -> None:
    import yaml

    tree = yaml.safe_load((ROOT / "training_config.yaml").read_text())
    assert {section: set(keys) for section, keys in tree.items()} == {
        section: set(keys) for section, keys in Settings().model_dump().items()
    }
    assert load_settings(ROOT / "training_config.yaml") == Settings()


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda file: file.name)
def test_every_shipped_example_is_valid(file: Path) -> None:
    assert load_settings(file) != Settings()  # it says something of its own


@pytest.mark.parametrize("text", ["5e-5", "5E-5", "5.0e-5", "0.00005", "+5e-05"])
def test_a_rate_without_a_dot_is_a_number(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, f"training:\n  base_learning_rate: {text}\n")
    assert load_settings(file).training.base_learning_rate == 5e-5
    assert load_settings(None, [f"training.base_learning_rate={text}"]).training.base_learning_rate == 5e-5


def test_an_override_wins_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "lora:\n  r: 8\n  alpha: 8\n")
    settings = load_settings(file, ["lora.r=16", "lora.target_modules=[q_proj]", "long_context.phase3_enabled=auto"])
    assert (settings.lora.r, settings.lora.alpha) == (16, 8)
    assert settings.lora.target_modules == ("q_proj",)
    assert settings.long_context.phase3_enabled == "auto"


def test_everything_wrong_is_said_at_once_with_place_and_remedy(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "model:\n  nam: x\ntrainin:\n  seed: 3\nlora:\n  r: abc\ndata: 7\n"
        "long_context:\n  phase1_max_length: 5000\n  phase3_enabled: maybe\n",
    )
    with pytest.raises(InputError) as caught:
        load_settings(file, ["lora.rank=3", "nonsense"])
    lines = str(caught.value).splitlines()
    assert lines[0] == "8 problems in the settings:"
    text = "\n".join(lines)
    for expected in (
        f"{file}: unknown key model.nam; did you mean model.name?",
        f"{file}: unknown key trainin; did you mean training?",
        f"{file}: lora.r: expected a valid integer",
        f"{file}: data: expected a valid dictionary",
        "--set lora.rank=3: unknown key lora.rank",
        "--set nonsense: expected section.key=value",
        "long_context.phase3_enabled: expected",
        f"{file}: long_context.phase2_max_length: must be above phase1_max_length (5000), got 2048",
    ):
        assert expected in text, expected


def test_a_misplaced_key_names_its_section(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown key gradient_accumulation_step; did you mean training\.gradient"):
        load_settings(write(tmp_path, "gradient_accumulation_step: 4\n"))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.overlap=4096", "must be below model.max_position_embeddings"),
        ("data.commit_share=0.97", "leave room for files"),
        ("long_context.phase2_min_length=1000", r"must be above phase1_max_length \(1024\)"),
        ("long_context.phase3_max_length=2048", r"must be above phase2_max_length \(2048\)"),
        ("training.base_learning_rate=-1", "training.base_learning_rate: expected greater than 0"),
        ("lora.dropout=1", "lora.dropout: expected less than 1"),
    ],
)
def test_impossible_values_are_refused(override: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        load_settings(None, [override])


def test_no_adapter_is_scaled_where_none_is_trained() -> None:
    whole = ("training.weights=all", "model.quantization=none")
    load_settings(None, ["lora.final_scale=0.6"])
    load_settings(None, whole)
    with pytest.raises(InputError, match=r"lora\.final_scale: scales an adapter, and training\.weights=all"):
        load_settings(None, [*whole, "lora.final_scale=0.6"])
    for wrong in ("0", "1.1"):
        with pytest.raises(InputError, match=r"lora\.final_scale: expected"):
            load_settings(None, [f"lora.final_scale={wrong}"])


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(InputError, match="nothing would be trained"):
        load_settings(None, ["long_context.phase1_epochs=0", "long_context.phase2_epochs=0"])
    with pytest.raises(InputError, match="auto judges phase 2"):
        load_settings(None, ["long_context.phase2_epochs=0", "long_context.phase3_enabled=auto"])


FURTHER = "long_context.further_phases"
EIGHT = "min_length: 6144, max_length: 8192, epochs: 1"


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ("7", "further_phases: expected a list, got 7"),
        ("[{max_length: 8192, epochs: 1}]", r"further_phases\[0\]\.min_length is missing"),
        (f"[{{{EIGHT}, epoch: 2}}]", r"unknown key .*\[0\]\.epoch; did you mean .*further_phases\[0\]\.epochs\?"),
        (f"[{{{EIGHT}, context: {{methd: yarn}}}}]", r"did you mean .*further_phases\[0\]\.context\.method\?"),
        (f"[{{{EIGHT}, enabled: maybe}}]", r"\[0\]\.enabled: expected .*'auto', got 'maybe'"),
        (
            "[{min_length: 4000, max_length: 8192, epochs: 1}]",
            r"\[0\]\.min_length: must be above phase3_max_length \(4096",
        ),
        (f"[{{{EIGHT}}}, {{{EIGHT}}}]", r"\[1\]\.max_length: must be above further_phases\[0\]\.max_length \(8192\)"),
        (f"[{{{EIGHT}, context: {{target_length: 4096}}}}]", r"\[0\]\.context\.target_length: must reach"),
        (f"[{{{EIGHT}, context: {{factor: 2}}}}]", r"\[0\]\.context\.factor: .*context\.method=none scales nothing"),
        (
            f"[{{{EIGHT}}}, {{min_length: 9000, max_length: 16384, epochs: 1, enabled: auto}}]".replace("1}", "0}", 1),
            r"\[1\]\.enabled: auto judges phase 4, which has 0 epochs",
        ),
    ],
)
def test_what_is_wrong_in_a_further_phase_is_said_in_one_line_with_its_place(phases: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        load_settings(None, [f"{FURTHER}={phases}"])
    assert "\n" not in str(caught.value)


def test_an_override_reaches_into_a_further_phase(tmp_path: Path) -> None:
    file = write(tmp_path, f"long_context:\n  further_phases:\n    - {{{EIGHT}}}\n")
    (phase,) = load_settings(
        file, [f"{FURTHER}[0].epochs=4", f"{FURTHER}[0].context.method=yarn"]
    ).long_context.further_phases
    assert phase.epochs == 4 and phase.context and phase.context.method == "yarn"
    with pytest.raises(InputError, match=r"there is no long_context\.further_phases\[1\]; add it"):
        load_settings(file, [f"{FURTHER}[1].epochs=4"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"model: [unclosed\n", r":2: not valid YAML"),
        (b"lora:\n  r: 1\n  r: 2\n", r":3: not valid YAML: key 'r' given twice"),
        (b"- a\n- b\n", "expected sections"),
        (b"\xff\xfe\x00binary", "can't be read as a settings file"),
    ],
)
def test_files_that_are_no_settings(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=expected):
        load_settings(file)
    with pytest.raises(InputError, match="no such settings file"):
        load_settings(tmp_path / "missing.yaml")


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "")) == Settings()
    assert load_settings(write(tmp_path, "lora:\n")).lora == Settings().lora


def test_resolved_settings_read_back_to_the_same_values_and_hash(tmp_path: Path) -> None:
    settings = load_settings(None, ["lora.r=7", "memory.budget_gb=3.5", "long_context.phase3_enabled=auto"])
    again = load_settings(write(tmp_path, dump_yaml(settings)))
    assert again == settings
    assert settings_hash(again.lora) == settings_hash(settings.lora) != settings_hash(Settings().lora)
