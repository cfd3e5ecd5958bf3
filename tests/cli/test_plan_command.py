"""`longrepo plan` as a person or a script runs it."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner, Result

from longrepo.cli.app import app
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
    assert told["configuration"] == "published"
    assert entry["seconds"] is None  # this machine wasn't timed


BAD = {
    "a budget smaller than the weights": (["--budget-gb", "0.001", "--device", "mps"], "the weights alone need"),
    "a length beyond the positions": (["--length", "9000"], r"^9,000 tokens: embedded was trained to 2,048 positions"),
    "timing another machine": (
        ["--budget-gb", "5", "--device", "mps", "--calibrate"],
        "--calibrate times this machine",
    ),
    "a run in place of a model to train": (["somewhere"], "only --inference takes a run or a model here"),
    "answers at positions that can't be": (
        ["--inference", "--set", "context.method=yarn", "--set", "context.target_length=8192"],
        "reaches no further",
    ),
    "answers of nothing": (["nowhere", "--inference"], "model nowhere: no such folder"),
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


def test_bases_are_listed_as_a_table_and_as_figures() -> None:
    shown = CliRunner().invoke(app, ["bases"], env={"COLUMNS": "80"}, catch_exceptions=False).stdout
    assert max(map(len, shown.splitlines())) <= 80
    told = json.loads(CliRunner().invoke(app, ["bases", "--json"], catch_exceptions=False).stdout)
    rows = {row["name"]: row for row in told["bases"]}
    one = rows["Qwen/Qwen2.5-Coder-1.5B"]
    assert (one["license"], one["use_at_work"], one["positions"], one["fim"], one["mlx"]) == (
        "Apache-2.0", "yes", 32768, True, True
    )  # fmt: skip
    assert one["fits"]["Mac 8 GB"]["2048"][1] <= told["machines"]["Mac 8 GB"] < one["fits"]["Mac 16 GB"]["4096"][1] * 3
    unknown = rows["Qwen/Qwen3.5-2B-Base"]
    assert unknown["parameters"] is None and set(unknown["fits"]["Mac 8 GB"].values()) == {None}
    assert all(name.partition("/")[2][:20] in shown for name in rows)


@pytest.mark.parametrize("engine", ["torch", "mlx"])
def test_answering_is_planned_tier_by_tier(engine: str) -> None:
    farther = ("--set", "context.method=yarn", "--set", "context.target_length=8192", "--set", "context.window=full")
    where = ("--inference", "--engine", engine, "--device", "cpu", "--measure-seconds", "0", "--json")
    told = json.loads(plan(*where, *farther, "--set", "training.precision=float32").stdout)
    own, *scaled = told["tiers"]
    assert [row["length"] for row in told["tiers"]] == [2048, 4096, 8192]
    assert (own["context"]["method"], scaled[0]["context"]["method"]) == ("none", "yarn")
    a_token = 2 * 6 * 2 * 32 * 4  # keys and values, layers, heads, width, bytes
    assert scaled[1]["cache"]["16"] == 8192 * a_token
    eighth = 1.125 if engine == "mlx" else 1  # with a scale and a bias for each 32 values, in float32
    assert scaled[1]["cache"]["8"] == pytest.approx(8192 * a_token / 4 * (eighth + 0.125 * (engine == "mlx")), rel=1e-4)
    assert own["cache"]["8"] is None and "for layers with a window" in told["why_not"]["8"]
    fixed = told["weights"] + told["adapter"] + told["overhead"]
    for row in told["tiers"]:
        assert row["together"] == fixed + row["cache"]["16"] and row["fits"]
        assert row["peak"] is None if engine == "mlx" else row["peak"] > row["together"]
    assert (told["speeds"], told["unmeasured"]) == ([], "as asked")


def test_speed_is_measured_where_the_weights_are() -> None:
    out = plan("--inference", "--device", "cpu", "--measure-seconds", "0.01")
    words = " ".join(out.output.split())
    assert "measured here, a prompt of 48 tokens:" in words and "keys and values" in words
    other = " ".join(plan("--inference", "--device", "mps", "--budget-gb", "5").output.split())
    assert "speed: not measured: it is planned for another machine" in other


@pytest.mark.skipif(sys.platform == "darwin", reason="it can be measured there")
def test_mlx_is_planned_only_where_it_can_be_measured() -> None:
    out = plan("--engine", "mlx", "--device", "mps", "--budget-gb", "5")
    assert isinstance(out.exception, InputError) and "\n" not in str(out.exception)
    assert "a plan for MLX is measured on the device" in str(out.exception)
    assert "longrepo plan --engine torch --machines" in str(out.exception)


def test_without_mlx_the_machine_table_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    out = plan("--engine", "mlx")
    assert isinstance(out.exception, InputError) and "\n" not in str(out.exception)
    assert "mlx" in str(out.exception) and "--machines" in str(out.exception)


def test_mlx_is_measured_on_the_cpu_and_says_so() -> None:
    out = plan("--engine", "mlx", "--device", "cpu", "--length", "200")
    assert out.exit_code == 0, out.output
    words = " ".join(out.output.split())
    assert "engine: mlx (as asked)" in words
    assert "MLX's plan: measured on this CPU with a few layers and random weights, and extrapolated" in words
    told = json.loads(plan("--engine", "mlx", "--device", "cpu", "--length", "200", "--json").stdout)
    assert told["phases"][0]["method"] == {"step": "chunked", "chunk": 128, "store": "memory"}
