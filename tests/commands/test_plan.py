"""`longrepo plan` as a person or a script runs it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from longrepo.commands.app import app
from longrepo.errors import InputError

PARTS = ("weights", "adapter", "gradients", "moments", "kept", "working")


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", "--model", "embedded", *arguments])


def test_the_parts_add_up_and_the_figures_are_a_scripts_too() -> None:
    out = plan("--length", "300", "--budget-gb", "40", "--json")
    assert out.exit_code == 0, out.output
    told = json.loads(out.stdout)
    (entry,) = told["phases"]
    assert entry["method"] == {"step": "plain"}
    assert entry["parts"]["peak"] == sum(entry["parts"][part] for part in PARTS)
    assert entry["peak"] == entry["parts"]["peak"] + told["overhead"]
    assert told["parameters"]["lora"] == sum(told["parameters"]["by_module"].values())
    assert told["longest"] == 2048  # the model's positions
    assert entry["seconds"] is None  # this machine wasn't timed


BAD = {
    "a budget smaller than the weights": (["--budget-gb", "0.001", "--device", "mps"], "the weights alone need"),
    "a length beyond the positions": (["--length", "9000"], r"9,000 tokens\): embedded was trained to 2,048 positions"),
    "timing another machine": (
        ["--budget-gb", "5", "--device", "mps", "--calibrate"],
        "--calibrate times this machine",
    ),
    "an unknown model": (["--model", "nowhere"], "model nowhere: no such folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_planned_is_said_in_one_line(case: str) -> None:
    arguments, expected = BAD[case]
    out = plan(*arguments)
    assert isinstance(out.exception, InputError)
    assert "\n" not in str(out.exception)
    with pytest.raises(InputError, match=expected):
        raise out.exception


def test_mlx_is_planned_on_the_cpu_and_says_what_that_is_worth() -> None:
    out = plan("--engine", "mlx", "--device", "cpu", "--length", "200")
    assert out.exit_code == 0, out.output
    words = " ".join(out.output.split())
    assert "engine: mlx (as asked)" in words
    assert "validated on the CPU and not on Metal, until longrepo plan --calibrate was run there" in words
    told = json.loads(plan("--engine", "mlx", "--device", "cpu", "--length", "200", "--json").stdout)
    assert told["phases"][0]["method"] == {"step": "chunked", "chunk": 128, "store": "memory"}
    assert told["checked_peak"] is None
