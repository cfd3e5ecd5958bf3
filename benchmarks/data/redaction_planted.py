"""Secrets made by chance, in the shapes of real ones, and the lines of code, settings and prose that they stand in.

No whole token stands in this file: each is put together from its parts when it is needed.
"""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LETTERS = string.ascii_letters
BASE62 = string.ascii_letters + string.digits
BASE64 = BASE62 + "+/"
URL64 = BASE62 + "-_"
HEX = "0123456789abcdef"
BASE32 = string.ascii_uppercase + "234567"
WORDS = (
    "harbour",
    "walnut",
    "ember",
    "glacier",
    "copper",
    "falcon",
    "saffron",
    "timber",
    "lantern",
    "velvet",
    "orchid",
)
HOSTS = ("db.acme-corp.net", "mail.brightlake.io", "10.0.3.17", "redis.internal.acme-corp.net")


@dataclass(frozen=True)
class Planted:
    """One secret: what must not survive (each of `values`), and the lines that hold it in a file of this suffix."""

    kind: str
    values: tuple[str, ...]
    lines: str
    suffix: str  # ".py", "Dockerfile", "message", …


def planted(seed: int, rounds: int) -> list[Planted]:
    """Every kind in every form that it is written in, `rounds` times over with other values."""
    chance = random.Random(seed)
    return [one for _ in range(rounds) for make in MAKERS for one in make(chance)]


def _draw(chance: random.Random, alphabet: str, length: int) -> str:
    """Characters by chance; at least one digit and one letter where the alphabet has them."""
    while True:
        value = "".join(chance.choice(alphabet) for _ in range(length))
        if any(c.isdigit() for c in value) and any(c.isalpha() for c in value):
            return value


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _url64(chance: random.Random, fields: dict[str, object]) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


_TOKENS: dict[str, Callable[[random.Random], str]] = {
    "aws key id": lambda c: c.choice(["AK", "AS"]) + "IA" + _draw(c, BASE32, 16),
    "github": lambda c: "gh" + c.choice("pousr") + "_" + _draw(c, BASE62, 36),
    "github fine-grained": lambda c: "github" + "_pat_" + _draw(c, BASE62, 22) + "_" + _draw(c, BASE62, 59),
    "gitlab": lambda c: "gl" + "pat-" + _draw(c, URL64, 20),
    "slack": lambda c: "xox" + c.choice("bpa") + f"-{c.randrange(10**11, 10**12)}-{c.randrange(10**12, 10**13)}-"
    + _draw(c, BASE62, 24),
    "stripe": lambda c: c.choice("sr") + "k_" + "live_" + _draw(c, BASE62, 24),
    "google": lambda c: "AI" + "za" + _draw(c, URL64, 35),
    "google oauth": lambda c: "GOC" + "SPX-" + _draw(c, URL64, 28),
    "openai": lambda c: "s" + "k-" + c.choice(["", "proj-"]) + _draw(c, BASE62, 48),
    "anthropic": lambda c: "s" + "k-ant-" + "api03-" + _draw(c, URL64, 93) + "AA",
    "hugging face": lambda c: "h" + "f_" + _draw(c, LETTERS + "0123", 34),
    "npm": lambda c: "np" + "m_" + _draw(c, BASE62, 36),
    "pypi": lambda c: "py" + "pi-" + "AgEIcHlwaS5vcmc" + _draw(c, URL64, 150),
    "sendgrid": lambda c: "S" + "G." + _draw(c, URL64, 22) + "." + _draw(c, URL64, 43),
    "twilio": lambda c: "S" + "K" + _draw(c, HEX, 32),
    "mailgun": lambda c: "ke" + "y-" + _draw(c, HEX, 32),
    "mailchimp": lambda c: _draw(c, HEX, 32) + "-us" + str(c.randrange(1, 21)),
    "telegram": lambda c: f"{c.randrange(10**8, 10**10)}:" + "AA" + _draw(c, URL64, 33),
    "discord": lambda c: c.choice("MN") + _draw(c, BASE62, 23) + "." + _draw(c, URL64, 6) + "." + _draw(c, URL64, 38),
    "jwt": lambda c: ".".join((_url64(c, {"alg": "HS256", "typ": "JWT"}), _url64(c, {"sub": _draw(c, HEX, 8)}),
                               _draw(c, URL64, 43))),
    "digitalocean": lambda c: "do" + "p_v1_" + _draw(c, HEX, 64),
    "shopify": lambda c: "shp" + "at_" + _draw(c, HEX, 32),
    "square": lambda c: "sq0" + "atp-" + _draw(c, URL64, 22),
    "databricks": lambda c: "da" + "pi" + _draw(c, HEX, 32),
    "atlassian": lambda c: "ATA" + "TT3" + _draw(c, URL64, 186),
    "terraform cloud": lambda c: _draw(c, BASE62, 14) + ".atlas" + "v1." + _draw(c, BASE62, 67),
    "vault": lambda c: "hv" + "s." + _draw(c, URL64, 95),
    "age": lambda c: "AGE-SECRET" + "-KEY-1" + _draw(c, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L", 58),
    "grafana": lambda c: "gl" + "sa_" + _draw(c, BASE62, 32) + "_" + _draw(c, HEX, 8),
    "slack webhook": lambda c: f"T{_draw(c, BASE32, 8)}/B{_draw(c, BASE32, 8)}/{_draw(c, BASE62, 24)}",
    "discord webhook": lambda c: f"{c.randrange(10**17, 10**18)}/" + _draw(c, URL64, 68),
}  # fmt: skip
_FRONTS = {
    "slack webhook": "https://hooks.slack.com/services/",
    "discord webhook": "https://discord.com/api/webhooks/",
}
# A token says itself what it is: it's found whatever name it has, and without one.
_ANYWHERE = (
    (".py", 'client = Client("{}")'), (".py", "# was {} before"), (".js", "const client = connect('{}');"),
    (".ts", "headers: {{ 'X-Ident': `{}` }},"), (".go", 'c := New("{}", 3)'), (".java", 'String s = "a\\n{}";'),
    (".rb", "Client.new('{}')"), (".yaml", "value: {}"), (".json", '{{"ident": "{}"}}'), (".env", "IDENT={}"),
    (".xml", "<ident>{}</ident>"), (".toml", 'ident = "{}"'), (".sh", "./deploy --with {} --now"),
    (".md", "Use `{}` for it."), (".ini", "ident = {}"), ("Dockerfile", "RUN ./setup {}"), (".csv", "3,{},x"),
    ("message", "Rotate {} after the leak"), (".txt", "{}"), (".sql", "INSERT INTO t VALUES (1, '{}');"),
)  # fmt: skip
# Anything else is found by the name that it is given to.
_NAMED = (
    (".py", '{} = "{}"'), (".py", "settings['{}'] = '{}'"), (".py", '{}: str = "{}"'), (".py", 'connect({}="{}")'),
    (".js", "const {} = '{}';"), (".js", "  {}: '{}',"), (".ts", "const {}: string = `{}`;"), (".go", '{} := "{}"'),
    (".go", '\t{}: "{}",'), (".java", 'String {} = "{}";'), (".kt", 'val {} = "{}"'), (".rs", 'let {}: &str = "{}";'),
    (".cs", 'var {} = "{}";'), (".rb", "{} => '{}',"), (".php", "define('{}', '{}');"), (".php", "$this->{} = '{}';"),
    (".swift", 'let {} = "{}"'), (".c", '#define {} "{}"'), (".yaml", "{}: {}"), (".yml", '  {}: "{}"'),
    (".yaml", "- name: {}\n  value: {}"), (".json", '  "{}": "{}",'), (".json", '{{"name": "{}", "value": "{}"}}'),
    (".xml", "<{0}>{1}</{0}>"), (".xml", '<add key="{}" value="{}"/>'), (".ini", "{} = {}"), (".properties", "{}={}"),
    (".toml", '{} = "{}"'), (".env", "{}={}"), (".env", 'export {}="{}"'), (".sh", "export {}='{}'"),
    (".sh", "run --{} {}"), ("Dockerfile", "ENV {} {}"), ("Dockerfile", "ENV {}={}"), (".tf", '{} = "{}"'),
    (".tf", 'variable "{}" {{\n  default = "{}"\n}}'), (".md", "Set `{}={}` first."), (".txt", "{}: {}"),
    ("message", "Use {}={} in staging"), (".sql", "ALTER ROLE app {} '{}';"), (".ps1", '${} = "{}"'),
    (".lua", "{} = '{}'"), (".gradle", '{} "{}"'), (".py", 'os.getenv("{}", "{}")'), (".rst", ":{}: {}"),
)  # fmt: skip
_PASSWORD_NAMES = ("password", "db_password", "DB_PASSWORD", "passwd", "dbPassword", "smtp_pass", "PGPASSWORD", "pwd")
_KEY_NAMES = (
    "api_key", "API_KEY", "apiKey", "secret_key", "SECRET_KEY", "clientSecret", "AUTH_TOKEN", "accessToken",
    "access_key", "encryption_key", "token", "private_key", "aws_secret_access_key", "ACCOUNT_KEY",
)  # fmt: skip


def _tokens(chance: random.Random) -> Iterator[Planted]:
    for kind, make in _TOKENS.items():
        for suffix, line in chance.sample(_ANYWHERE, 5):
            value = make(chance)
            yield Planted(kind, (value,), line.format(_FRONTS.get(kind, "") + value), suffix)


def _password(chance: random.Random) -> str:
    word = chance.choice(WORDS)
    return chance.choice(
        (
            _draw(chance, BASE62, chance.randrange(10, 20)),
            _draw(chance, BASE62 + "!@%^*_+=-", chance.randrange(10, 20)),
            word.capitalize() + str(chance.randrange(10, 10000)) + chance.choice("!?*"),
            word + chance.choice("-_.") + chance.choice(WORDS) + str(chance.randrange(10, 1000)),
            word.replace("e", "3").replace("a", "4") + str(chance.randrange(10, 1000)),
        )
    ).lstrip("!@%^*_+=-")


def _key(chance: random.Random) -> str:
    return chance.choice(
        (
            _draw(chance, BASE62, chance.choice((20, 32, 40))),
            _draw(chance, HEX, chance.choice((32, 40, 64))),
            _draw(chance, BASE64, 43) + "=",
            _draw(chance, URL64, 43).strip("-_"),
            _draw(chance, BASE32, 32),
        )
    )


def _named(chance: random.Random) -> Iterator[Planted]:
    for suffix, line in _NAMED:
        if suffix != ".sql":
            value = _key(chance)
            yield Planted("assigned key", (value,), line.format(chance.choice(_KEY_NAMES), value), suffix)
        value = _password(chance)
        yield Planted("assigned password", (value,), line.format(chance.choice(_PASSWORD_NAMES), value), suffix)


def _logins(chance: random.Random) -> Iterator[Planted]:
    host, user = chance.choice(HOSTS), chance.choice(WORDS)

    def new() -> str:
        return _draw(chance, BASE62, chance.randrange(9, 17))

    for kind, suffix, line in (
        ("address", ".py", f'ENGINE = create("postgresql://{user}:{{}}@{host}:5432/app")'),
        ("address", ".yaml", f"broker: amqp://{user}:{{}}@{host}//"),
        ("address", ".env", f"REDIS_URL=redis://:{{}}@{host}:6379/0"),
        ("address", ".sh", f"git clone https://{user}:{{}}@git.acme-corp.net/app.git"),
        ("address", "message", f"Fetch from ftp://{user}:{{}}@{host}/pub"),
        ("connection string", ".cs", f'"Server={host};Database=app;User Id={user};Password={{}};"'),
        ("connection string", ".json", f'"dsn": "host={host} user={user} password={{}} dbname=app"'),
        ("command line", ".sh", f"sshpass -p '{{}}' ssh {user}@{host}"),
        ("command line", ".sh", f"mysql -h {host} -u {user} -p{{}} app < dump.sql"),
        ("command line", ".yml", f"  - curl -u {user}:{{}} https://{host}/v1"),
        ("command line", ".md", f"    docker login -u {user} -p {{}} registry.acme-corp.net"),
        ("command line", "message", f"Try it: redis-cli -h {host} -a {{}} ping"),
        ("command line", ".sh", "openssl rsa -in k.pem -passin pass:{}"),
        (".netrc", ".netrc", f"machine {host} login {user} password {{}}"),
        (".netrc", ".netrc", f"machine {host}\n  login {user}\n  password {{}}"),
        (".pypirc", ".pypirc", f"[pypi]\nusername = {user}\npassword = {{}}"),
        (".pgpass", ".pgpass", f"{host}:5432:app:{user}:{{}}"),
        ("k8s secret", ".yaml", f"  {user}-password: {{}}"),
    ):
        value = new()
        yield Planted(kind, (value,), line.format(value), suffix)
    for suffix, line in ((".py", 'headers = {{"Authorization": "Basic {}"}}'), (".http", "Authorization: Basic {}"),
                         (".json", '"auths": {{"r.acme-corp.net": {{"auth": "{}"}}}}')):  # fmt: skip
        value = _b64(f"{user}:{new()}")
        yield Planted("basic authorization", (value,), line.format(value), suffix)
    for suffix, line in (
        (".sh", "curl -H 'Authorization: Bearer {}' https://api"),
        (".js", "authorization: `Bearer {}`"),
        (".npmrc", "//registry.acme-corp.net/:_authToken={}"),
        (".md", "    Authorization: Bearer {}"),
    ):
        value = _draw(chance, BASE62, 40)
        yield Planted("bearer token", (value,), line.format(value), suffix)
    account, signature = _draw(chance, BASE64, 86) + "==", _draw(chance, BASE62, 43)
    yield Planted("azure account key", (account,), f'"AccountName=app;AccountKey={account};EndpointSuffix=x"', ".cs")
    yield Planted("azure signature", (signature,), f"https://app.blob.core/x?sv=2022&sig={signature}%3D", ".md")
    pair = "AK" + "IA" + _draw(chance, BASE32, 16), _draw(chance, BASE64, 40)
    yield Planted("aws pair", pair, 'boto.connect("{}", "{}")'.format(*pair), ".py")
    heroku = "-".join(_draw(chance, HEX, size) for size in (8, 4, 4, 4, 12))
    yield Planted("heroku key", (heroku,), f"HEROKU_API_KEY={heroku}", ".env")
    sentry = _draw(chance, HEX, 32)
    yield Planted("sentry key", (sentry,), f'dsn="https://{sentry}@o{chance.randrange(999)}.ingest.sentry.io/5"', ".py")


def _private_keys(chance: random.Random) -> Iterator[Planted]:
    for name, width in (("RSA ", 64), ("EC ", 64), ("", 64), ("OPENSSH ", 70), ("ENCRYPTED ", 64), ("PGP ", 64)):
        block = " BLOCK" if name == "PGP " else ""
        body = [_draw(chance, BASE64, width) for _ in range(chance.randrange(3, 9))] + [
            _draw(chance, BASE64, 22) + "=="
        ]
        begin, end = (f"-----{edge} {name}PRIVATE" + f" KEY{block}-----" for edge in ("BEGIN", "END"))
        lines, values = [begin, *body, end], tuple(body)
        yield Planted("private key", values, "\n".join(lines), ".pem")
        yield Planted("private key", values, "key: |\n" + "\n".join("  " + line for line in lines), ".yaml")
        yield Planted("private key", values, 'KEY = "' + "\\n".join(lines) + '\\n"', ".py")
        yield Planted(
            "private key", values, '{"type": "service_account", "private_key": "' + "\\n".join(lines) + '"}', ".json"
        )
        yield Planted("private key", values, " +\n".join(f'"{line}\\n"' for line in lines), ".js")
    encoded = _b64("-----BEGIN RSA PRIVATE" + " KEY-----\n" + _draw(chance, BASE64, 64))
    yield Planted("private key", (encoded,), f"client-key-data: {encoded}", ".yaml")
    body = [_draw(chance, BASE64, 64) for _ in range(3)]
    yield Planted("private key", tuple(body), "Private-Lines: 3\n" + "\n".join(body) + "\nPrivate-MAC: 00", ".ppk")


def _addresses(chance: random.Random) -> Iterator[Planted]:
    for suffix, line in (
        (".py", "# Ask {} first"), (".md", "Write to <{}>."), (".json", '"author": "X <{}>",'), (".yaml", "owner: {}"),
        (".toml", 'authors = ["X <{}>"]'), (".html", '<a href="mailto:{}">'), (".c", " * (c) {}, 2019"),
        ("message", "As {} asked"), (".java", 'send("a\\n{}");'),
    ):  # fmt: skip
        domain = f"{chance.choice(WORDS)}-{chance.randrange(99)}.{chance.choice(('com', 'io', 'co.uk', 'de'))}"
        value = f"{chance.choice(WORDS)}.{_draw(chance, BASE62, 6)}@{domain}"
        yield Planted("e-mail address", (value,), line.format(value), suffix)


# Script: an author as git has the name, and spellings of it in texts.
NAMES = {
    "Latin": ("Marrow, Quilla", ("Quilla Marrow", "MARROW Quilla", "Q. Marrow", "Quilla J. Marrow", "quilla marrow")),
    "Latin, accents": ("Zoë Brontë-Ångström", ("Zoe Bronte-Angstrom", "Zoë Brontë-Ångström", "Brontë-Ångström, Zoë")),
    "Latin, particles": (
        "Ludwig van der Hoogen",
        ("Ludwig van der Hoogen", "van der Hoogen, Ludwig", "Ludwig Van Der Hoogen"),
    ),
    "Latin, apostrophe": ("Quilla d'Ambre", ("Quilla d'Ambre", "Quilla d’Ambre", "d'Ambre, Quilla")),
    "Vietnamese": ("Nguyễn Văn Anh", ("Nguyễn Văn Anh", "Nguyen Van Anh", "Văn Anh Nguyễn")),
    "Cyrillic": ("Иван Петров", ("Иван Петров", "Петров Иван", "И. Петров", "Ивану Петрову", "ИВАН ПЕТРОВ")),
    "Greek": ("Γιώργος Παπαδόπουλος", ("Γιώργος Παπαδόπουλος", "Παπαδόπουλος Γιώργος", "ΓΙΩΡΓΟΣ ΠΑΠΑΔΟΠΟΥΛΟΣ")),
    "Armenian": ("Արամ Պետրոսյան", ("Արամ Պետրոսյան", "Պետրոսյան Արամ", "Արամ Պետրոսյանի")),
    "Georgian": ("გიორგი ბერიძე", ("გიორგი ბერიძე", "ბერიძე გიორგი", "გიორგი ბერიძემ")),
    "Hebrew": ("דוד כהן", ("דוד כהן", "כהן דוד", "לדוד כהן")),
    "Arabic": ("محمد العلي", ("محمد العلي", "العلي محمد", "لمحمد العلي", "محمّد العلي")),
    "Devanagari": ("राम कुमार", ("राम कुमार", "कुमार राम")),
    "Tamil": ("கமல் குமார்", ("கமல் குமார்", "குமார் கமல்")),
    "Thai": ("สมชาย ใจดี", ("สมชาย ใจดี", "สมชายใจดี")),
    "Han": ("王小明", ("王小明", "王 小明")),
    "Han and kana": ("山田 太郎", ("山田 太郎", "山田太郎", "太郎 山田")),
    "Hangul": ("김철수", ("김철수", "김 철수")),
}


MAKERS = (_tokens, _named, _logins, _private_keys, _addresses)
