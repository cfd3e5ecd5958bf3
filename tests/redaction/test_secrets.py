"""Secrets of every kind become placeholders, line for line; what only looks like one stays."""

from __future__ import annotations

import base64
import random
import string
import time

import pytest

from longrepo.redaction import entropy
from longrepo.redaction.redactor import Redactor
from longrepo.repository.languages import language_of

CHANCE = random.Random(7)
LETTERS = string.ascii_letters + string.digits


def draw(length: int, alphabet: str = LETTERS) -> str:
    while True:
        value = "".join(CHANCE.choice(alphabet) for _ in range(length))
        if any(c.isdigit() for c in value) and any(c.isalpha() for c in value):
            return value


HEX = "0123456789abcdef"
BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
PASSWORD = "tR7" + draw(9)
TOKENS = {
    "aws key": "AK" + "IA" + draw(16, BASE32),
    "github token": "gh" + "p_" + draw(36),
    "gitlab token": "gl" + "pat-" + draw(20),
    "slack token": "xo" + "xb-271938465012-" + draw(24),
    "stripe key": "sk" + "_live_" + draw(24),
    "google key": "AI" + "za" + draw(35),
    "anthropic or openai key": "s" + "k-ant-api03-" + draw(90),
    "hugging face token": "h" + "f_" + draw(34),
    "npm token": "np" + "m_" + draw(36),
    "pypi token": "py" + "pi-" + draw(120),
    "sendgrid key": "S" + "G." + draw(22) + "." + draw(43),
    "twilio key": "S" + "K" + draw(32, HEX),
    "mailgun key": "ke" + "y-" + draw(32, HEX),
    "mailchimp key": draw(32, HEX) + "-us12",
    "telegram token": "123456789:" + "AA" + draw(33),
    "discord token": "M" + draw(23) + "." + draw(6) + "." + draw(38),
    "jwt": "ey" + "J" + draw(30) + ".ey" + "J" + draw(30) + "." + draw(43),
    "digitalocean token": "do" + "p_v1_" + draw(64, HEX),
    "shopify token": "shp" + "at_" + draw(32, HEX),
    "square token": "sq0" + "atp-" + draw(22),
    "databricks token": "da" + "pi" + draw(32, HEX),
    "atlassian token": "ATA" + "TT3" + draw(180),
    "terraform token": draw(14) + ".atlas" + "v1." + draw(66),
    "vault token": "hv" + "s." + draw(90),
    "age key": "AGE-SECRET" + "-KEY-1" + draw(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"),
}
LINES = (
    ("Python", 'client = Client("{}")'),
    ("Python", "# it was {} before"),
    ("YAML", "value: {}"),
    ("JSON", '{{"ident": "a\\n{}"}}'),
    ("Other", "IDENT={}"),
    ("Markdown", "Use `{}`."),
)


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize(("language", "line"), LINES)
def test_a_token_goes_wherever_it_stands(kind: str, language: str, line: str) -> None:
    redacted = Redactor([]).text("x = 1\n" + line.format(TOKENS[kind]) + "\n", language)
    assert redacted.text == "x = 1\n" + line.format("<KEY>") + "\n"
    assert [(finding.kind, finding.line) for finding in redacted.findings] == [(kind, 2)]


@pytest.mark.parametrize(
    ("language", "line"),
    [
        ("Python", 'password = "{}"'),
        ("Python", "connect(user='me', password='{}')"),
        ("Python", 'os.getenv("DB_PASSWORD", "{}")'),
        ("JavaScript", "  dbPassword: `{}`,"),
        ("TypeScript", "const passwd: string = '{}';"),
        ("Go", '\tPassword:   "{}",'),
        ("Rust", '.basic_auth("me", Some("{}"))'),
        ("C", '#define DB_PASS "{}"'),
        ("C#", 'Connect("Server=db;User Id=me;Password={};Ssl=1")'),
        ("PHP", "define('DB_PASSWORD', '{}');"),
        ("SQL", "CREATE USER me IDENTIFIED BY '{}';"),
        ("YAML", "db:\n  password: {}"),
        ("YAML", "- name: DB_PASSWORD\n  value: {}"),
        ("JSON", '"password": "{}",'),
        ("JSON", '"body": "{{\\"password\\": \\"{}\\"}}"'),
        ("XML", "<password>{}</password>"),
        ("XML", '<add key="smtpPassword" value="{}"/>'),
        ("INI", "password = {}"),
        ("Other", "export PGPASSWORD={}"),
        ("Dockerfile", "ENV DB_PASSWORD {}"),
        ("Terraform", 'variable "db_password" {{\n  default = "{}"\n}}'),
        ("Shell", "sshpass -p '{}' ssh me@host"),
        ("Shell", "mysql -u root -p{} app"),
        ("Shell", "curl -u me:{} https://host/"),
        ("Other", "machine host\n  login me\n  password {}"),
        ("Other", "host:5432:app:me:{}"),
        ("Python", 'url = "postgresql://me:{}@db.acme.net/app"'),
        ("Text", "The password is {} for now"),
    ],
)
def test_a_password_goes_by_the_name_or_the_place_it_has(language: str, line: str) -> None:
    redacted = Redactor([]).text(line.format(PASSWORD), language)
    assert redacted.text == line.format("<PASSWORD>")
    assert Redactor([]).text(redacted.text, language).text == redacted.text


@pytest.mark.parametrize("value", [draw(40), draw(32, HEX), draw(43) + "=", draw(32, BASE32)])
@pytest.mark.parametrize(
    ("language", "line"),
    [
        ("Python", 'SECRET_KEY = "{}"'),
        ("JSON", '"apiKey": "{}"'),
        ("INI", "aws_secret_access_key = {}"),
        ("Shell", "export AUTH_TOKEN={}"),
        ("Other", "//registry.acme.net/:_authToken={}"),
        ("Go", 'req.Header.Set("X-Api-Key", "{}")'),
        ("Shell", "curl -H 'Authorization: Bearer {}' host"),
    ],
)
def test_a_key_goes_by_the_name_it_has(language: str, line: str, value: str) -> None:
    assert Redactor([]).text(line.format(value), language).text == line.format("<KEY>")


def test_an_aws_secret_goes_with_the_key_beside_it() -> None:
    line = f'connect("{TOKENS["aws key"]}", "{draw(38)}/+")'
    assert Redactor([]).text(line).text == 'connect("<KEY>", "<KEY>")'


def test_authorization_in_base64_is_read() -> None:
    pair, shown = (base64.b64encode(f"me:{word}".encode()).decode() for word in (PASSWORD, "password"))
    text = f"Authorization: Basic {pair}\nAuthorization: Basic {shown}"
    assert Redactor([]).text(text).text == f"Authorization: Basic <PASSWORD>\nAuthorization: Basic {shown}"


BODY = [draw(64), draw(64), draw(30) + "=="]
BEGIN, END = ("-----BEGIN RSA PRIVATE" + " KEY-----", "-----END RSA PRIVATE" + " KEY-----")


def test_a_private_key_keeps_its_lines() -> None:
    text = "\n".join(["a", "  " + BEGIN, *("  " + line for line in BODY), "  " + END, "b"])
    redacted = Redactor([]).text(text)
    assert redacted.text.split("\n") == ["a", "  " + BEGIN, *["  <KEY>"] * 3, "  " + END, "b"]
    assert Redactor([]).text(redacted.text).text == redacted.text


def test_a_private_key_within_a_string_becomes_one_placeholder() -> None:
    text = 'key = "' + "\\n".join([BEGIN, *BODY, END]) + '\\n"\n'
    assert Redactor([]).text(text, "Python").text == f'key = "{BEGIN}\\n<KEY>\\n{END}\\n"\n'


def test_a_private_key_whose_end_is_missing_goes_to_its_last_line() -> None:
    text = "\n".join([BEGIN, *BODY[:2], "def go():", "    return 1"])
    assert Redactor([]).text(text).text == "\n".join([BEGIN, "<KEY>", "<KEY>", "def go():", "    return 1"])


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("Python", "password = get_password()"),
        ("Python", "def login(user: str, password: str = None): ..."),
        ("Python", "token = tokens[0]"),
        ("Python", 'connect(password="password")'),
        ("Python", 'password = "changeme123"'),
        ("Other", "DB_PASSWORD=my_secret_password1"),
        ("Other", "DB_PASSWORD=your-password-here"),
        ("Objective-C", '[credentials objectForKey:@"Password"]'),
        ("Python", 'api_key = "your-api-key-123"'),
        ("Python", 'password = os.environ["DB_PASSWORD1"]'),
        ("Python", 'token_url = "https://host/oauth2/v1/token1"'),
        ("Python", 'TOKEN_RE = r"[a-z]\\d{3}[A-Z0-9]+"'),
        ("Python", 'password_hash = "5f4dcc3b5aa765d61d8327deb882cf99"'),
        ("JavaScript", "const token = req.headers['x-token2'];"),
        ("Rust", "let token = Token::new(TokenKind::Ident2);"),
        ("Go", "token := scanner.Token2"),
        ("Shell", "export TOKEN=${TOKEN}"),
        ("YAML", "token: {{ token }}"),
        ("YAML", "password: <your-password1>"),
        ("YAML", "password: ${{ secrets.DB_PASSWORD2 }}"),
        ("TOML", 'checksum = "9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b"'),
        ("JSON", '"integrity": "sha512-' + draw(86) + '=="'),
        ("Text", "See 9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b and 123e4567-e89b-12d3-a456-426614174000"),
        ("Markdown", "`ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx` and AKIAIOSFODNN7EXAMPLE"),
        ("Markdown", "http://user:pass@proxy.acme.net and http://user:password@proxy.acme.net"),
        ("CSS", ".sk-fading-circle-container-spinner { color: red }"),
        ("Python", "-----BEGIN RSA PRIVATE" + " KEY-----\n...\n-----END RSA PRIVATE" + " KEY-----"),
    ],
)
def test_what_only_looks_like_a_secret_stays(language: str, text: str) -> None:
    assert Redactor([]).text(text, language).text == text


@pytest.mark.parametrize("form", ["hunter2{}", "walnut77-{}!", "Blue{}Harbour9", "{}_tiger42x", "{}Orchid&88velvet"])
def test_a_password_goes_whatever_words_of_a_placeholder_it_contains(form: str) -> None:
    for word in (*entropy._PLACEHOLDER_WORDS.split(), "example", "changeme", "placeholder", "redacted"):
        value = form.format(word)
        for language, line in (("Other", "DB_PASSWORD={}"), ("Python", 'password = "{}"'), ("INI", "smtp_pass = {}")):
            assert Redactor([]).text(line.format(value), language).text == line.format("<PASSWORD>"), value
    assert Redactor([]).text("DB_PASSWORD=hunter2supersecret", "Other").text == "DB_PASSWORD=<PASSWORD>"


@pytest.mark.parametrize(
    "path",
    [".env", ".netrc", ".npmrc", "run.bat", "run.fish", "nginx.conf", "a.sls", "a.j2", "a.tfvars", "a.toml"],
)
def test_settings_have_bare_values_whatever_their_language_is_called(path: str) -> None:
    language = language_of(path, "")
    assert Redactor([]).text("DB_PASSWORD=kr4k3nLamp77\n", language).text == "DB_PASSWORD=<PASSWORD>\n", language
    assert Redactor([]).text("password = param1_value\n", "COBOL").text == "password = param1_value\n"


def test_placeholders_and_line_breaks_survive() -> None:
    text = 'a = "<KEY>"\r\npassword: "<PASSWORD>"\r\n<EMAIL> <NAME>\x0c\n\npostgres://me:<PASSWORD>@db/x\n'
    assert Redactor([("Ada Lovelace", "a@b.org")]).text(text).text == text


def test_a_text_of_one_endless_line_takes_no_minutes() -> None:
    start = time.process_time()
    for piece in ("password=", "token:'", "://a:", "a@b.", "key ", "-----BEGIN PRIVATE KEY-----", "Ab Cd ", "eyJ"):
        Redactor([]).text(piece * (30_000 // len(piece)), "Other")
    assert time.process_time() - start < 5
