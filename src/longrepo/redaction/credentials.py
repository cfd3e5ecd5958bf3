"""Passwords and tokens that show by where they stand: in addresses, headers, command lines, login files."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator

from longrepo.redaction.scan import Scan
from longrepo.redaction.shapes import is_password, is_placeholder, is_random, is_token
from longrepo.redaction.spans import KEY, PASSWORD, Span

_IN_ADDRESS = re.compile(r"://([^\s/:@\"'<>]{0,100}):([^\s\"'<>@]{1,300}(?:@[^\s\"'<>@/:.]{1,60})*)@(\[?[\w.-]+|\$|\{)")
_LOCAL_HOST = re.compile(r"localhost|127\.|0\.0\.0\.0|.*\bexample\b|.*\.(?:test|invalid|local)\Z|[a-z]+\Z|\$|\{", re.I)
_SENTRY = re.compile(r"://([0-9a-f]{32}(?::[0-9a-f]{32})?)@[\w.-]+/\d")
_BEARER = re.compile(r"bearer[ \t:]+[\"']?([\w.~+/=-]{16,4000})", re.IGNORECASE)
_BASIC = re.compile(r"[Bb](?:asic|ASIC)[ \t]+([A-Za-z0-9+/]{8,400}={0,2})(?![\w+/=])")
_DOCKER_AUTH = re.compile(r"\"auth\"\s*:\s*\"([A-Za-z0-9+/]{8,400}={0,2})\"")
_SHARED_SIGNATURE = re.compile(r"\bsig=([\w%+/=-]{30,200})")
_JWK = re.compile(r"\\?\"(?:d|p|q|dp|dq|qi|k)\\?\"\s*:\s*\\?\"([\w-]{32,1400})\\?\"")
_PAIR = re.compile(
    r"(?:auth\w*|login|credentials?)[ \t]*[=:(]{1,2}[ \t]*[(\[]?[ \t]*([\"'])[^\"'\n]{1,80}\1,[ \t]*"
    r"(?:Some\()?([\"'][^\"'\n]{6,100}[\"'])",
    re.IGNORECASE,
)
_LOGIN_FILE = re.compile(
    r"\b(?:login|user|username|machine)[ \t]+(?!and |or |with )\S+\s+"
    r"(?:account[ \t]+\S+\s+)?password[ \t]+(\"[^\"\n]+\"|\S+)"
)
_PGPASS = re.compile(r"^[\w.*-]+:(?:5432|5433|6432|3306|\*):[^:\s]+:[^:\s]+:([^\s:]{3,100})$", re.MULTILINE)
_VALUE = r"(\"[^\"\n$]{4,100}\"|'[^'\n]{4,100}'|[^\s\"'$<>|;&`]{4,100})"
_COMMANDS = re.compile(
    rf"\b(?:sshpass[ \t]+-p[ \t]*{_VALUE}"
    rf"|(?:mysql|mysqldump|mysqladmin|mysqlimport|mariadb|mariadb-dump)\b[^\n|;&]{{0,200}}?[ \t]-p(?=[^\s]){_VALUE}"
    rf"|(?:curl|wget|httpie)\b[^\n|;&]{{0,300}}?[ \t](?:-u|--user|--proxy-user|-U|-a|--auth)"
    r"[ \t=]*[\"']?[^\s:\"'$]{1,60}:([^\s\"'$<>|;&`]{4,100})"
    rf"|(?:docker|podman|helm|mongo|mongosh|redis-cli|mosquitto_pub|mosquitto_sub|ldapsearch|smbclient|psql"
    r"|cqlsh|sqlcmd)\b"
    rf"[^\n|;&]{{0,200}}?[ \t](?:-p|-P|-a|-w|--pass)[ \t]+{_VALUE}"
    rf"|htpasswd[ \t]+-\w*b\w*[ \t]+\S+[ \t]+\S+[ \t]+{_VALUE}"
    rf"|net[ \t]+use\b[^\n]{{0,120}}/user:\S+[ \t]+{_VALUE}"
    rf"|echo[ \t]+(?:-n[ \t]+)?{_VALUE}[ \t]*\|[ \t]*sudo[ \t]+-S"
    r"|echo[ \t]+[\"']?[\w.-]+:([^\s\"'$]{4,100})[\"']?[ \t]*\|[ \t]*(?:sudo[ \t]+)?chpasswd)"
    rf"|-pass(?:in|out)[ \t]+[\"']?pass:([^\s\"'$]{{4,100}})"
)
_PROGRAMS = (
    "sshpass mysql mariadb curl wget httpie docker podman helm mongo redis-cli mosquitto ldapsearch smbclient psql "
    "cqlsh sqlcmd htpasswd chpasswd passin passout"
)
_COMMAND_STEMS = (*_PROGRAMS.split(), "net use", "sudo -s")


def find(scan: Scan) -> Iterator[Span]:
    """Every such password or token whose characters can be one in use."""
    text = scan.text
    if "://" in text:
        yield from _in_addresses(text)
    for match in _matches(scan, _BEARER, "bearer"):
        if is_token(match[1]):
            yield Span(*match.span(1), "token", KEY)
    for match in _matches(scan, _BASIC, "basic "):
        yield from _encoded_pair(match)
    for match in _matches(scan, _DOCKER_AUTH, '"auth"'):
        yield from _encoded_pair(match)
    for match in _matches(scan, _SHARED_SIGNATURE, "sig="):
        if is_random(match[1]) and not is_placeholder(match[1]):
            yield Span(*match.span(1), "azure signature", KEY)
    if scan.has("kty"):
        for match in _JWK.finditer(text):
            if is_random(match[1]):
                yield Span(*match.span(1), "private key", KEY)
    for match in _matches(scan, _PAIR, "auth", "login", "credential"):
        yield from _value(match, 2)
    for match in _matches(scan, _LOGIN_FILE, "password ", "login ", "user ", "account "):
        yield from _value(match, 1)
    for match in _matches(scan, _PGPASS, ":5432:", ":3306:", ":6432:", ":*:"):
        yield from _value(match, 1)
    for match in _matches(scan, _COMMANDS, *_COMMAND_STEMS):
        yield from _value(match, match.lastindex or 0)


def _matches(scan: Scan, pattern: re.Pattern[str], *stems: str) -> Iterator[re.Match[str]]:
    for start, end in scan.around(stems):
        yield from pattern.finditer(scan.text, start, end)


def _in_addresses(text: str) -> Iterator[Span]:
    for match in _IN_ADDRESS.finditer(text):
        user, value, host = match.groups()
        if value.startswith("//") or "://" in value or value.lower() == user.lower():
            continue
        weak = value.isalpha() and len(value) >= 6 and not is_placeholder(value) and not _LOCAL_HOST.match(host)
        if is_password(value) or weak:
            yield Span(*match.span(2), "password", PASSWORD)
    for match in _SENTRY.finditer(text):
        yield Span(*match.span(1), "sentry key", KEY)


def _encoded_pair(match: re.Match[str]) -> Iterator[Span]:
    """Base64 of `user:password`."""
    try:
        decoded = base64.b64decode(match[1] + "=" * (-len(match[1]) % 4), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return
    user, colon, password = decoded.partition(":")
    if colon and decoded.isprintable() and len(password) > 3 and password != user and not is_placeholder(password):
        yield Span(*match.span(1), "password", PASSWORD)


def _value(match: re.Match[str], group: int) -> Iterator[Span]:
    start, end = match.span(group)
    value = match[group]
    if value[0] in "\"'" and value[-1] == value[0] and len(value) > 1:
        start, end, value = start + 1, end - 1, value[1:-1]
    if is_password(value):
        yield Span(start, end, "password", PASSWORD)
