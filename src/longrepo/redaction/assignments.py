"""Values given to names that mean secrets: `password = "…"`, `AUTH_TOKEN=…`, `<secret>…</secret>` and so on."""

from __future__ import annotations

import re
from collections.abc import Iterator

from longrepo.redaction.scan import Scan
from longrepo.redaction.shapes import is_mixed, is_passphrase, is_password, is_strong, is_token, is_uuid
from longrepo.redaction.spans import KEY, PASSWORD, Span

_PASSWORD = (
    r"pass(?:w(?:or)?d|wrd|phrase|code|wort)?s?|pwd|\bpw|requirepass|masterauth|securestring"
    r"|identified(?:[ \t]+with[ \t]+\w+)?[ \t]+by"
)
_KEY = (
    r"secret|token|credential|creds\b|jwt|_auth\b|(?:api|app|access|private|auth|account|encrypt(?:ion)?|signing|sign"
    r"|master|licen[sc]e|storage|service|subscription|shared|deploy|admin|consumer|client|publishable|webhook|cookie"
    r"|session|hmac|aes|crypto|cipher|rest|server|write|ingest|ikey|vapid|maps|heroku[\w.-]{0,8}|datadog|dd"
    r"|algolia)[_. -]?key"
)
_STEMS = ("pass", "pw", "secret", "token", "cred", "jwt", "_auth", "key", "identified", "securestring")
_NAME = re.compile(rf"(?:(?P<password>{_PASSWORD})|{_KEY})(?P<rest>[\w.-]{{0,40}})")
_QUOTE = r"\\{0,3}[\"'`]"
_SEPARATOR = re.compile(
    r"(?P<close>(?:\\{0,3}[\"'`]|[\])}]){0,3})[ \t]*"
    r"(?P<separator>"
    r"\??:[ \t]*&?(?:'?\w+[ \t]+)?[\w<>\[\].?| ]{1,30}[ \t]*=(?!=)"  # a type between
    r"|=>|[:?+|]{0,2}={1,3}|!==?|->|:"
    r"|(?:[ \t]+(?:is|was|now|be|changed|set|reset|from|to|eq)){1,3}[ \t:]"
    r"|,?\s{0,40}\\{0,3}[\"']?\b(?:value|Value|default)\\{0,3}[\"']?[ \t]*[=:]"  # a name, then its value
    r"|[ \t]*\{\s*(?:(?:type|description|sensitive)[ \t]*=[^\n]*\s*){0,3}default[ \t]*="
    r"|,|</key>\s*<string>|>(?:<!\[CDATA\[|\s*<value>)?|\(|(?=[ \t])"
    r")[ \t]*"
)
_CALL = r"(?:[\w.:]{1,40}(?<!encode)(?<!decode)[(!]{1,2}\s{0,20})?"
_QUOTED = re.compile(
    rf"(?:(?:\\?\n)?[ \t]*|\(\s*|[|>][-+]?\n[ \t]*){_CALL}[rbfuRBFUL@$]{{0,2}}(?P<quote>\\{{0,3}}(?:\"\"\"|'''|[\"'`]))"
    r"(?P<value>(?:(?!(?P=quote))(?:\\[^\n]|[^\\\n])){4,4000}?)(?P=quote)"
)
_BARE = re.compile(r"(?:[|>][-+]?\n[ \t]*)?(?:\$\{\w+:[-=])?(?P<value>[^\s\"'`,;<>()\[\]{}\\|]{6,4000})")
_NEXT_FIELD = re.compile(r"&\w+=")  # of an address's query
_PUNCTUATION = re.compile(r"[^\w\s]")
_NOT_SECRET = re.compile(r"hash|digest|sha\d|md5|checksum|integrity|fingerprint|public|pub_?key")
_ABOUT_ONE = re.compile(
    r"(?:^|[_.-]?)(?:url|uri|path|file|type|field|header|label|hint|prompt|message|text|title|expir\w*|ttl|endpoint|selector"
    r"|class|column|param|names?|ids?|len|length|limit|index|kind|format|count|regex|pattern|policy|manager|mgr\w*|service)s?\Z"
)
_SIGNS = frozenset({"=", ":", ":=", "?=", "is", "was", "to", "now", "be"})
_LANGUAGES_OF_BARE_VALUES = frozenset(
    {"Other", "Text", "INI", "YAML", "Shell", "Dockerfile", "Terraform", "XML", "HTML", "Markdown", "reStructuredText",
     "PowerShell", "Makefile", "TOML", "Nix", "CSV"}
)  # fmt: skip
_COMMAND = re.compile(
    r"(?:--?[\w-]{0,30}|^[ \t]*(?:ENV|ARG|setenv|set -\w+)[ \t]+[\w.-]{0,40}|login[ \t]+\S+[ \t]+)\Z", re.M
)


def find(scan: Scan, language: str) -> Iterator[Span]:
    """Every value of such a name that can be a secret by its characters."""
    text = scan.text
    for start, end in scan.around(_STEMS):
        for name in _NAME.finditer(scan.lowered, start, end):
            before = _before(text, name.start())
            if not _is_another_word(text, name, before):
                yield from _value_of(text, name, before, language in _LANGUAGES_OF_BARE_VALUES)


def _before(text: str, at: int) -> str:
    """The part of the line in front, 80 characters of it at most."""
    return text[max(text.rfind("\n", 0, at) + 1, at - 80) : at]


def _is_another_word(text: str, name: re.Match[str], before: str) -> bool:
    """`bypass` and `compass`, and names of what isn't the secret itself: `password_hash`, `token_url`."""
    if name["password"] == "pass":
        hump = text[name.start()].isupper() and before[-1:].islower()  # dbPass
        joined = before[-1:].isalpha() and not hump and not before.lower().endswith(("user", "root", "db", "smtp"))
        return joined or (name["rest"][:1].isalpha() and not text[name.end("password")].isupper())
    front = re.search(r"[\w.-]{0,40}\Z", before)
    whole = (front[0].lower() if front else "") + name[0]
    return _NOT_SECRET.search(whole) is not None or _ABOUT_ONE.fullmatch(name["rest"]) is not None


def _value_of(text: str, name: re.Match[str], before: str, bare_values: bool) -> Iterator[Span]:
    separator = _SEPARATOR.match(text, name.end())
    if separator is None:
        return
    sign, close = separator["separator"].strip(), separator["close"]
    if sign == "," and not any(quote in close for quote in "\"'`"):
        return
    verb = name["password"] == "pass" and not re.search(r"\w\Z", before) and not _PUNCTUATION.search(sign)
    if verb or (sign == "(" and "." in name["rest"]):
        return  # pass `x` to it; password.encode("latin1")
    kind, placeholder = ("password", PASSWORD) if name["password"] else ("key", KEY)
    quoted = _QUOTED.match(text, separator.end())
    if quoted and not (sign == "," and "\n" in text[separator.end() : quoted.start("value")]):
        if _is_secret(quoted["value"], name):
            yield Span(*quoted.span("value"), kind, placeholder)
        return
    bare = _BARE.match(text, separator.end())
    if (
        bare is None
        or sign in ("(", ",")
        or (
            ">" in sign[:1] + sign[-1:]
            and "=" not in sign
            and sign != "->"
            and text[bare.end() : bare.end() + 1] not in ("<", "]")
        )
    ):
        return
    value = _NEXT_FIELD.split(bare["value"], 1)[0].rstrip("." if bare_values else ".:")
    start = bare.start("value")
    shown = (
        sign in _SIGNS
        or "value" in sign.lower()
        or sign[:1] in ("<", ">")
        or " " in separator[0].strip()
        or _COMMAND.search(before) is not None
    )
    in_string = text[name.end()] == "=" and not text[name.end() + 1].isspace() and any(q in before for q in "\"'`")
    if value.rstrip("!?").isalpha() and value[-1:] in ("!", "?"):
        return
    if bare_values and shown:
        accepted = _is_secret(value, name)
    else:
        accepted = is_strong(value) or (in_string and is_mixed(value) and _is_secret(value, name))
    if accepted:
        yield Span(start, start + len(value), kind, placeholder)


def _is_secret(value: str, name: re.Match[str]) -> bool:
    if " " in value:
        return bool(name["password"]) and is_passphrase(value)
    if is_uuid(value):
        return "token" not in name[0]
    return is_password(value) if name["password"] or "secret" in name[0] else is_token(value)
