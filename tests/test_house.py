"""The house: names, front doors, and answers in under a second. Who imports whom: import-linter (pyproject.toml)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from typer.main import get_command

from longrepo.cli.app import app

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "longrepo"
DOORS = {
    "prepare_long_context.py": "--max-sequence-length",
    "run_pipeline_dynamic.py": "--long-context-mode",
    "training/model_trainer_unified.py": "--sequences",
    "tokenizers/git_tokenizer_rich.py": "--sequence-length",
}


def test_no_class_name_twice() -> None:
    """Two rooms of one name: whoever searches for a class finds one."""
    names = Counter(
        node.name
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert not {name for name, count in names.items() if count > 1}


def test_a_file_name_occurs_twice_only_between_engines_or_for_a_command_and_its_package() -> None:
    found: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        if file.name != "__init__.py":
            folder = file.relative_to(PACKAGE).parent.as_posix()
            if not folder.startswith("engines/") and folder != "cli":
                found.setdefault(file.name, set()).add(folder)
            elif folder.startswith("engines/"):
                found.setdefault(file.name, set()).add("engines")  # the two, and what they share
    assert not {name for name, folders in found.items() if len(folders) > 1}


@pytest.mark.parametrize("door", [*DOORS, "dataset_builder_long_context.py", "training/long_context_scheduler.py"])
def test_a_front_door_holds_no_logic(door: str) -> None:
    tree = ast.parse((ROOT / door).read_text())
    for node in tree.body:
        plain = isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.Expr)
        starts = isinstance(node, ast.If) and len(node.body) == 1
        assert plain or starts, ast.unparse(node)


def test_folders_at_the_top_do_not_hide_the_libraries_of_their_name() -> None:
    """A package `tokenizers` here would replace the one that transformers imports."""
    for name in ("training", "tokenizers"):
        assert not (ROOT / name / "__init__.py").exists()
    code = "import tokenizers; print(tokenizers.Tokenizer.__name__)"
    for folder in (ROOT, ROOT / "tokenizers"):
        out = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        assert out.stdout.strip() == "Tokenizer"


def test_the_documented_names_can_be_imported_from_where_the_guide_says() -> None:
    code = (
        "import sys; sys.path.insert(0, 'training');"
        "from dataset_builder_long_context import LongContextSequence, LongContextSequenceBuilder;"
        "from long_context_scheduler import LongContextPhaseScheduler;"
        "s = LongContextPhaseScheduler({'training': {'base_learning_rate': '5e-5'}});"
        "print(s.get_phase_at_epoch(6).number)"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "2"


HEAVY = (
    "bitsandbytes", "datasets", "huggingface_hub", "matplotlib", "mlx", "pandas", "peft", "pyarrow", "rich.table",
    "tokenizers", "torch", "transformers", "tree_sitter",
)  # fmt: skip
COMMANDS = {
    "longrepo check-leaks": "SEQUENCES",
    "longrepo check-questions": "--repo",
    "longrepo doctor": "--device",
    "longrepo bases": "--json",
    "longrepo evaluate": "--repo",
    "longrepo export": "--format",
    "longrepo extend": "--method",
    "longrepo generate": "--model",
    "longrepo import-adapter": "--output",
    "longrepo init": "FILE",
    "longrepo inspect": "SEQUENCES",
    "longrepo models": "params",
    "longrepo models params": "--json",
    "longrepo pipeline": "--long-context-mode",
    "longrepo plan": "--machine",
    "longrepo prepare": "--max-sequence-length",
    "longrepo pretrain": "--preset",
    "longrepo report": "RUN",
    "longrepo serve": "--port",
    "longrepo setup-editor": "--write",
    "longrepo tokenize": "--sequence-length",
    "longrepo train": "--sequences",
}


@pytest.mark.parametrize("command, option", [*COMMANDS.items(), *DOORS.items()])
def test_help_names_the_options_and_loads_nothing_heavy(command: str, option: str) -> None:
    """Answers in under a second follow from this; the time itself is measured in benchmarks/answer_times.py."""
    first, *rest = command.split()
    start = "runpy.run_module('longrepo', run_name='__main__')"
    if first != "longrepo":
        start = f"runpy.run_path({str(ROOT / first)!r}, run_name='__main__')"
    code = (
        f"import runpy, sys\nsys.argv = {[first, *rest, '--help']!r}\n"
        f"try:\n    {start}\nexcept SystemExit as end:\n    print('status', end.code)\n"
        f"print('heavy', sorted({set(HEAVY)!r} & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert option in out and "status 0\nheavy []" in out


def test_every_command_is_asked_for_help() -> None:
    assert {command.split()[1] for command in COMMANDS} == {*get_command(app).commands}  # type: ignore[attr-defined]


BAD = {
    "an unknown option": (["run_pipeline_dynamic.py", "--rep", "."], "No such option"),
    "a missing option": (["prepare_long_context.py"], "Missing option"),
    "a missing settings file": (
        ["training/model_trainer_unified.py", "--config", "nowhere.yaml"],
        "error: nowhere.yaml: no such settings file",
    ),
    "a wrong setting": (
        ["run_pipeline_dynamic.py", "--repo", ".", "--set", "lora.rr=3"],
        "error: --set lora.rr=3: unknown key lora.rr; did you mean lora.r?",
    ),
    "no such sequences": (
        ["training/model_trainer_unified.py", "--sequences", "nowhere.json"],
        "error: nowhere.json: no such sequences",
    ),
    "no such repository": (["run_pipeline_dynamic.py", "--repo", "nowhere"], "error: "),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_get_one_line_and_status_2(case: str, tmp_path: Path) -> None:
    (door, *arguments), expected = BAD[case]
    out = run(door, *arguments, cwd=tmp_path)
    assert out.returncode == 2
    assert expected in out.stderr
    assert "Traceback" not in out.stderr
    assert not list(tmp_path.iterdir()), "nothing may be left behind"


def run(door: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / door, *arguments], cwd=cwd, capture_output=True, text=True)
