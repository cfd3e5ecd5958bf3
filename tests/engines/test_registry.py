"""Which engine is chosen, why, and what is said where it can't be."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.machinery import ModuleSpec

import pytest

from longrepo.engines import registry as choosing
from longrepo.engines.registry import EngineSelection, choose_engine, select_device
from longrepo.errors import InputError


def on(monkeypatch: pytest.MonkeyPatch, system: str, machine: str, *installed: str) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    found = {name: ModuleSpec(name, None) for name in installed}
    monkeypatch.setattr(choosing, "find_spec", found.get)


def test_auto_is_mlx_on_apple_silicon_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, "Darwin", "arm64", "mlx", "mlx_lm")
    assert (
        choose_engine("auto", "auto")
        == choose_engine("auto", "mps")
        == EngineSelection("mlx", "Apple Silicon, and MLX is installed")
    )
    assert choose_engine("torch", "auto").name == "torch"
    assert choose_engine("auto", "mps", "all") == EngineSelection("torch", "the one that trains all weights")


def test_auto_is_torch_elsewhere_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, "Darwin", "arm64", "mlx")
    assert choose_engine("auto", "auto").name == "torch"
    assert "mlx_lm not installed: pip install" in choose_engine("auto", "auto").reason
    for system, machine in (("Linux", "x86_64"), ("Darwin", "x86_64"), ("Linux", "arm64")):
        on(monkeypatch, system, machine, "mlx", "mlx_lm")
        assert choose_engine("auto", "auto") == EngineSelection("torch", "this isn't Apple Silicon")
        assert choose_engine("mlx", "cpu") == EngineSelection("mlx", "as asked")
    assert choose_engine("auto", "cuda").name == "torch"


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_mlx_where_it_cannot_compute_is_one_line(device: str) -> None:
    if device == "mps" and sys.platform == "darwin":
        pytest.skip("there is Metal here")
    with pytest.raises(InputError, match=f"--device {device}: MLX ") as caught:
        select_device(choose_engine("mlx", device), device, "auto")
    assert "\n" not in str(caught.value)


def test_a_machine_that_mlx_is_not_for_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    with pytest.raises(InputError, match="--engine mlx: MLX is for Apple Silicon and Linux, this is Windows"):
        select_device(EngineSelection("mlx", "as asked"), "cpu", "auto")


def test_mlx_is_placed_and_loaded_without_torch() -> None:
    code = (
        "import sys\nfrom longrepo.engines.registry import choose_engine, select_device\n"
        "placed = select_device(choose_engine('mlx', 'cpu'), 'cpu', 'auto')\n"
        "import longrepo.engines.mlx.engine, longrepo.engines.mlx.measure\n"
        "from longrepo.engines.model_shape import read_config, read_shape\n"
        "shape = read_shape(read_config('embedded'), 'mlx')\n"
        "print(placed.kind, placed.dtype_name, shape.linear + shape.other, 'torch' in sys.modules)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split()[:2] == ["cpu", "float32"]
    assert int(out.stdout.split()[2]) > 5_000_000
    assert out.stdout.split()[3] == "False"
