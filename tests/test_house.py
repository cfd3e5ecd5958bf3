"""The house: floors, front doors, and answers in under a second."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "longrepo"
FLOORS = (
    {"commands"},
    {"pipeline"},
    {"training", "evaluation", "reports", "export", "use", "models"},
    {"engines", "curriculum", "memory"},
    {"sequences"},
    {"redaction"},
    {"repository"},
    {"context"},
    {"config", "embedded", "errors"},
)
DOORS = {
    "prepare_long_context.py": "--max-sequence-length",
    "run_pipeline_dynamic.py": "--long-context-mode",
    "training/model_trainer_unified.py": "--sequences",
    "tokenizers/git_tokenizer_rich.py": "--sequence-length",
}


def floor_of(name: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if name in floor)


def imports_of(file: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("longrepo"):
            found += [node.module] if node.module != "longrepo" else [f"longrepo.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("longrepo.")]
    return [name for name in found if name.count(".")]


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*/*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down_or_stay_on_their_floor(file: Path) -> None:
    here = floor_of(file.relative_to(PACKAGE).parts[0])
    for name in imports_of(file):
        target = name.split(".")[1]
        if target == "__version__":
            continue
        assert floor_of(target) >= here, f"{file.name} imports {name}, which is above it"


@pytest.mark.parametrize("folder", ["sequences", "curriculum", "training", "config", "repository"])
def test_only_engines_and_memory_know_torch(folder: str) -> None:
    for file in (PACKAGE / folder).rglob("*.py"):
        names = {
            (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not names & {"torch", "mlx", "peft", "bitsandbytes"}, file


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


@pytest.mark.parametrize("door", DOORS)
def test_help_names_the_options_and_loads_nothing_heavy(door: str) -> None:
    out = run(door, "--help")
    assert out.returncode == 0
    assert DOORS[door] in out.stdout


@pytest.mark.parametrize(
    "command",
    [
        "prepare",
        "inspect",
        "check-leaks",
        "check-questions",
        "tokenize",
        "train",
        "evaluate",
        "pipeline",
        "export",
        "extend",
        "generate",
        "models",
        "pretrain",
        "report",
        "serve",
    ],
)
def test_answers_come_before_anything_heavy_is_imported(command: str) -> None:
    """Under a second follows from this; the time itself is measured in benchmarks/answer_times.py."""
    code = (
        "import sys\nfrom longrepo.cli.app import main\n"
        f"sys.argv = ['longrepo', {command!r}, '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print('status', end.code)\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'mlx', 'peft', 'matplotlib'}\n"
        "print('heavy', sorted(heavy & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "status 0" in out.stdout
    assert "heavy []" in out.stdout


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
