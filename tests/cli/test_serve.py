"""`longrepo serve` as a person runs it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import openai
import pytest
from export.exported import trained_run
from typer.testing import CliRunner

from longrepo.cli.app import app
from longrepo.errors import InputError
from longrepo.serve.server import allowed_hosts

TEXT = "class Basket:\n    def __init__(self, owner):\n        self."
LONG = 400  # tokens of an answer that is under way for a while


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(tmp_path_factory.mktemp("served") / "run", "embedded").folder


def _heed_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _serving(run: Path, engine: str, *more: str) -> Iterator[tuple[subprocess.Popen[str], openai.OpenAI]]:
    command = [sys.executable, "-m", "longrepo", "serve", str(run), "--port", "0", "--engine", engine, *more]
    pipe = subprocess.PIPE  # a shell's background process ignores Ctrl-C, and so would what it starts
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=_heed_ctrl_c)
    try:
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line)
            if "answers" in line:
                break
        address = re.match(r"(http://[\d.]+:\d+/v1) answers as embedded-run; Ctrl-C ends it", told[-1])
        assert address
        assert any("there is no key" in line for line in told) == ("0.0.0.0" in more)
        with openai.OpenAI(base_url=address[1], api_key="none", max_retries=0) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit status, and what stood on standard error."""
    errors = process.communicate(timeout=60)[1]
    return process.returncode, errors


@pytest.mark.parametrize("engine", ["mlx", "torch"])
def test_ctrl_c_after_an_answer_ends_it(run: Path, engine: str) -> None:
    with _serving(run, engine) as (process, client):
        assert client.completions.create(model="", prompt=TEXT, max_tokens=2).choices[0].text
        process.send_signal(signal.SIGINT)
        assert _end(process) == (130, "stopped\n")


@pytest.mark.parametrize("engine", ["mlx", "torch"])
def test_ctrl_c_leaves_an_answer_under_way_and_a_second_one_changes_nothing(run: Path, engine: str) -> None:
    with _serving(run, engine) as (process, client):
        answer = client.completions.create(model="", prompt=TEXT, max_tokens=LONG, stream=True)
        parts = [next(answer)]
        process.send_signal(signal.SIGINT)
        with suppress(Exception):  # whatever the client makes of an answer that breaks off
            parts += answer
        process.send_signal(signal.SIGINT)
        assert _end(process) == (130, "stopped\n")
    assert len(parts) < LONG and not any(part.choices[0].finish_reason for part in parts)


@pytest.mark.parametrize(
    ("address", "allowed", "refused"),
    [
        ("127.0.0.1", ["127.0.0.1:8080", "localhost:8080", "LOCALHOST", "[::1]:80", "127.0.0.1"], ["192.168.1.5:8080"]),
        ("::1", ["[::1]:8080", "localhost", "127.0.0.1:1"], ["[fe80::1]:80"]),
        ("0.0.0.0", ["127.0.0.1:8080", "192.168.1.5:8080", "localhost:1", f"{socket.gethostname()}:8080"], []),
        ("::", ["[fe80::1]:8080", "10.0.0.2:8080", f"{socket.gethostname().partition('.')[0]}.local"], []),
    ],
)
def test_only_own_names_and_addresses_are_answered(address: str, allowed: list[str], refused: list[str]) -> None:
    allows = allowed_hosts(address)
    assert all(map(allows, allowed))
    assert not any(map(allows, [*refused, "pages.example", "pages.example:8080", "localhost.pages.example", "", "::"]))


def test_other_machines_are_let_in_only_if_it_is_asked_for_and_that_is_said(run: Path) -> None:
    with _serving(run, "torch", "--host", "0.0.0.0") as (_, client):
        own = client.base_url
        with socket.create_connection(("127.0.0.2", own.port or 0)):  # an address of this machine that nobody named
            assert client.completions.create(model="", prompt=TEXT, max_tokens=2).choices[0].text
        with pytest.raises(openai.BadRequestError, match="isn't this server's"):
            client.models.list(extra_headers={"Host": "pages.example"})
    with _serving(run, "torch") as (_, client), pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", client.base_url.port or 0))


def test_a_host_that_is_not_this_machine_s_is_one_line(run: Path) -> None:
    for host, expected in (
        ("192.0.2.1", "can't listen there"),
        ("no-such-host.invalid", "--host no-such-host.invalid"),
    ):
        error = CliRunner().invoke(app, ["serve", str(run), "--host", host, "--port", "0"]).exception
        assert isinstance(error, InputError) and expected in str(error) and "\n" not in str(error)


def test_a_port_in_use_is_said_at_once(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        error = CliRunner().invoke(app, ["serve", str(run), "--port", port]).exception
    expected = f"--port {port}: can't listen there (Address already in use); give another port, or 0 for any"
    assert isinstance(error, InputError) and str(error) == expected


def test_what_the_server_needs_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "longrepo.serve.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    error = CliRunner().invoke(app, ["serve", str(run), "--engine", "torch"]).exception
    assert isinstance(error, InputError)
    assert str(error) == "longrepo serve needs uvicorn; pip install 'longrepo[serve]'"


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    error = CliRunner().invoke(app, ["serve", str(tmp_path), "--port", "0"]).exception
    assert isinstance(error, InputError) and "neither a run nor a checkpoint nor an adapter" in str(error)
