"""Nothing that is a secret or names a person stands in any row, wherever in the repository it was."""

from __future__ import annotations

import base64
import json
import random
import re
from pathlib import Path

import pytest
from git_helper import Made, make_repo
from small_packages import NAMES, module
from whole import Case, prepared, shown

from longrepo.config.loader import load_settings
from longrepo.data.prepare import write_prepared
from longrepo.data.tokenizer import RepoTokenizer
from longrepo.data.tokenizer_loading import load_tokenizer

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
PEOPLE = ("Ottilie Fernbach", "Bartholomew Quist", "Solveig Ramnefalk")
MAIL = {name: f"{name.split()[0].lower()}@{name.split()[1].lower()}-works.org" for name in PEOPLE}


def drawn(seed: str, length: int) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice(ALPHABET) for _ in range(length))


def key_lines(seed: str) -> list[str]:
    body = base64.b64encode(random.Random(seed).randbytes(1100)).decode()
    return [body[at : at + 64] for at in range(0, len(body), 64)]


def pem(lines: list[str]) -> str:
    return "\n".join(["-----BEGIN RSA PRIVATE KEY-----", *lines, "-----END RSA PRIVATE KEY-----", ""])


def secrets(where: str) -> dict[str, str]:
    """A secret of each kind, another one for each place."""
    return {
        "token": "ghp_" + drawn(f"{where} token", 36),
        "aws": "AKIA" + drawn(f"{where} aws", 60).upper().translate({ord(c): None for c in "0189"})[:16],
        "password": drawn(f"{where} password", 9) + "!7q" + drawn(f"{where} more", 4),
        "in_url": drawn(f"{where} url", 16),
        "mail": f"{drawn(where, 8).lower()}@{drawn(where + 'host', 9).lower()}.io",
    }


def planted(where: str, comment: str) -> str:
    """Lines of code that hold them."""
    one = secrets(where)
    return (
        f"# {comment}\n"
        f'GITHUB_TOKEN = "{one["token"]}"\n'
        f'aws_access_key_id = "{one["aws"]}"\n'
        f'PASSWORD = "{one["password"]}"\n'
        f'DATABASE = "postgresql://shop:{one["in_url"]}@db.shop.internal/main"\n'
        f'CONTACT = "{one["mail"]}"\n'
    )


OLD_KEY, NEW_KEY = key_lines("old"), [*key_lines("old")[:7], key_lines("new")[7], *key_lines("old")[8:]]


def commits() -> list[Made]:
    """Secrets in a file that stays, in versions that are gone, in messages and in a commit that is held out."""
    files: dict[str, str] = {f"src/{name}.py": module(name, None, 9) for name in NAMES}
    writers = [f"{name} <{MAIL[name]}>" for name in PEOPLE]
    settings = planted("stays", f"Asked for by {PEOPLE[0]}.") + module("settings", None, 4)
    key = f'"""Keys."""\nKEY = """\n{pem(OLD_KEY)}"""\n' + module("keys", None, 5)
    files[f"src/{PEOPLE[2]}/mine.py"] = module("mine", None, 9)
    files |= {"src/settings.py": settings, "src/keys.py": key, "AUTHORS": "\n".join(map(str, writers)) + "\n"}
    made = [Made(files, "Begin", author=writers[0])]
    for number, name in enumerate(NAMES):
        path, text = f"src/{name}.py", module(name, None, 9 + number % 3)
        said = secrets(f"message {number}")
        message = f"Rotate {said['token']}\n\nThe password was PASSWORD={said['password']}, tell {said['mail']}.\n"
        message += f"\nReviewed-by: {PEOPLE[1]} <{MAIL[PEOPLE[1]]}>\nThanks to {PEOPLE[2]} for this."
        made.append(
            Made({path: text + planted(f"gone {number}", f"By {PEOPLE[1]}")}, message, author=writers[number % 3])
        )
        made.append(Made({path: text + f"done_{number} = True\n"}, f"Take it out {number}", author=writers[2]))
    changed = key.replace(OLD_KEY[7], NEW_KEY[7]).replace('"""Keys."""', '"""Keys, turned."""')
    made.append(Made({"src/keys.py": changed}, "One line of the key", author=writers[0]))
    made += [Made({f"src/{name}.py": module(name, None, 13)}, f"More {name}", author=writers[1]) for name in NAMES[:4]]
    made += [
        Made(
            {f"src/late{n}.py": planted(f"late {n}", f"{PEOPLE[0]} wrote this") + module(f"late{n}", None, 6)},
            f"Late {n}",
        )
        for n in range(4)
    ]
    return made


@pytest.fixture(scope="module")
def starcoder() -> RepoTokenizer:
    return load_tokenizer("embedded")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repo(tmp_path_factory.mktemp("redacted") / "shop", commits())


@pytest.fixture(scope="module")
def case(folder: Path, starcoder: RepoTokenizer) -> Case:
    return prepared(folder, starcoder, load_settings(None, ["data.commit_share=0.6", "data.question_share=0.1"]))


def every_secret() -> list[str]:
    places = [
        "stays",
        *(f"{kind} {n}" for kind in ("gone", "message") for n in range(10)),
        *(f"late {n}" for n in range(4)),
    ]
    found = [value for place in places for value in secrets(place).values()]
    keys = {*OLD_KEY, *NEW_KEY}
    return [*found, *(line[at : at + 16] for line in keys for at in (0, 24, 44)), *MAIL.values(), *PEOPLE]


def test_no_row_holds_a_secret_or_a_name(case: Case, starcoder: RepoTokenizer) -> None:
    whole = "\n".join(shown(starcoder, row) for row in case.rows)
    assert len(whole) > 100_000
    assert {row.kind for row in case.rows} == {"hierarchical", "commit_evolution", "qa"}
    assert {row.split for row in case.rows} == {"train", "validation", "test"}
    for hidden in every_secret():
        assert hidden not in whole, hidden
    for word in ("src/<NAME>/mine.py", "GITHUB_TOKEN", "Rotate", "One line of the key", "Asked for by", "late2_step_3"):
        assert word in whole, f"{word}: what stands around them is still there"


def test_nor_do_windows(folder: Path, starcoder: RepoTokenizer) -> None:
    found = prepared(folder, starcoder, load_settings(), overlap=128)
    whole = "\n".join(shown(starcoder, row) for row in found.rows)
    assert "GITHUB_TOKEN" in whole and not [hidden for hidden in every_secret() if hidden in whole]


def test_what_stands_for_them_are_single_tokens(case: Case, starcoder: RepoTokenizer) -> None:
    ids = {id for row in case.rows for id in row.input_ids.tolist()}
    for name in ("<KEY>", "<PASSWORD>", "<EMAIL>", "<NAME>"):
        assert starcoder.id(name) in ids
    (row, *_) = [row for row in case.rows if "GITHUB_TOKEN" in shown(starcoder, row)]
    text = shown(starcoder, row)
    assert 'GITHUB_TOKEN = "<KEY>"' in text and 'PASSWORD = "<PASSWORD>"' in text and 'CONTACT = "<EMAIL>"' in text


def test_where_they_were_is_told_and_never_what(case: Case, tmp_path: Path) -> None:
    write_prepared(tmp_path, case.prepared)
    report = (tmp_path / "redactions.tsv").read_text()
    head, *lines = report.rstrip("\n").split("\n")
    assert head == "where\tline\tkind" and len(lines) == len(set(lines))
    places = {(where, kind) for where, _, kind in (line.split("\t") for line in lines)}
    assert ("src/settings.py", "github token") in places and ("AUTHORS", "name") in places
    assert ("src/<NAME>/mine.py", "path") in places
    assert any(":src/" in where for where, _ in places), "in changes too"
    by_line = {line.split("\t")[1] for line in lines if line.startswith("src/settings.py\t")}
    assert {"1", "2", "3", "4", "5", "6"} <= by_line
    counted = case.prepared.header.redactions
    assert counted["name"] > 3 and sum(counted.values()) == len(lines)
    everything = report + (tmp_path / "preparation_summary.json").read_text()
    everything += "".join(file.read_text() for file in (tmp_path / "sequences").glob("*.json"))
    everything += "".join(file.read_text() for file in (tmp_path / "sequences").glob("*.md"))
    for paths in case.prepared.header.repositories[0].held_out_files.values():  # they are looked up by their paths
        for path in paths:
            everything = everything.replace(path, "")
    assert not [hidden for hidden in every_secret() if hidden in everything]
    assert json.loads((tmp_path / "preparation_summary.json").read_text())["redactions"] == counted


def test_a_key_of_which_a_commit_changed_one_line_is_hidden_whole(case: Case, starcoder: RepoTokenizer) -> None:
    rows = [shown(starcoder, row) for row in case.of("train", kind="commit_evolution")]
    (text, *_) = [text for text in rows if "One line of the key" in text]
    step = text[text.index("One line of the key") :].partition("<|COMMIT_END|>")[0]
    assert "-----BEGIN RSA PRIVATE KEY-----\n <KEY>" in step
    for line in (*OLD_KEY, *NEW_KEY):
        assert not any(line[at : at + 12] in text for at in range(0, 52, 4) for text in rows)


def test_without_redaction_the_text_is_as_it_was(folder: Path, starcoder: RepoTokenizer) -> None:
    found = prepared(folder, starcoder, load_settings(None, ["data.redact=false"]), phases=1)
    whole = "\n".join(shown(starcoder, row) for row in found.rows)
    for hidden in (secrets("stays")["token"], secrets("stays")["password"], MAIL[PEOPLE[0]], OLD_KEY[3]):
        assert hidden in whole
    assert not found.prepared.header.redactions and not found.prepared.redacted
    assert not {starcoder.id("<KEY>"), starcoder.id("<EMAIL>")} & {
        id for row in found.rows for id in row.input_ids.tolist()
    }


def test_questions_quote_messages_without_them(folder: Path, starcoder: RepoTokenizer) -> None:
    asking = load_settings(None, ["data.commit_share=0.2", "data.question_share=0.7"])
    whole = "\n".join(shown(starcoder, row) for row in prepared(folder, starcoder, asking).rows if row.kind == "qa")
    assert re.search(r'Which files did commit \w{8} "Rotate <KEY>"', whole)
    assert not [hidden for hidden in every_secret() if hidden in whole]
