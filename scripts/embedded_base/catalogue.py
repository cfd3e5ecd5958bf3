"""Which packages the embedded base model learns from: large, permissively licensed, fetched by name.

Standard libraries where a language has one that a package manager carries; otherwise large
frameworks. OpenJDK is left out (GPL). Versions are pinned; `sources.py` records checksums.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LANGUAGES = {
    ".py": "python",
    ".go": "go",
    ".rs": "rust",
    ".java": "java",
    ".kt": "kotlin",
    ".js": "javascript",
    ".mjs": "javascript",
    ".ts": "typescript",
    ".tsx": "typescript",
    ".c": "c",
    ".h": "c",
    ".md": "markdown",
    ".yml": "config",
    ".yaml": "config",
    ".toml": "config",
    ".sh": "shell",
}

SKIPPED_PATHS = re.compile(
    r"(^|/)(vendor|_?vendored|third_party|node_modules|testdata|fixtures|snapshots|locale|locales|"
    r"idlelib/Icons|lib2to3|__tests__/__fixtures__|encodings|dist|build|cjs|esm|esm5|esm2015|fesm\w*|"
    r"contrib/gis|core_simd|core_arch|stdarch|msvcrt)/"
    r"|(\.min\.|unicode|/tables?[._]|_tables?\.|zerrors|zsyscall|zsysnum|ztypes|bundle|pydoc_data|generated|"
    r"rewrite[A-Z0-9]\w*\.go|opGen\.go|\.d\.ts$|CHANGELOG|changelog|html5?_?entities)",
)


@dataclass(frozen=True)
class Package:
    """A package to fetch: `manager` is pip, npm, deb (binary) or deb-src; `keep` is a path pattern."""

    manager: str
    name: str
    version: str  # "" takes the distribution's current version, which is recorded
    licence: str
    languages: tuple[str, ...]
    keep: str = "."

    @property
    def repository(self) -> str:
        """The name that stands after `<repo_name>` in the training text."""
        return self.name.strip("@")


PACKAGES = (
    Package("deb", "libpython3.11-stdlib", "", "PSF-2.0", ("python",), r"\.py$"),
    Package("deb", "libpython3.11-minimal", "", "PSF-2.0", ("python",), r"\.py$"),
    Package("pip", "Django", "5.2.19", "BSD-3-Clause", ("python",), r"^django/"),
    Package("pip", "Twisted", "26.10.0", "MIT", ("python",), r"^twisted/"),
    Package("pip", "SQLAlchemy", "2.1.9", "MIT", ("python",), r"^sqlalchemy/"),
    Package("deb", "golang-1.19-src", "", "BSD-3-Clause", ("go", "shell", "markdown"), r"/src/"),
    Package(
        "deb",
        "rust-src",
        "",
        "MIT OR Apache-2.0",
        ("rust", "markdown", "config", "shell"),
        r"/library/(alloc|core|proc_macro|std|test|panic_\w+)/",
    ),
    Package("deb-src", "guava-libraries", "", "Apache-2.0", ("java", "markdown"), r"(/guava/|\.md$)"),
    Package("deb-src", "netty", "", "Apache-2.0", ("java", "config", "shell", "markdown"), r"."),
    Package(
        "deb-src",
        "nodejs",
        "18.20.4+dfsg-1~deb12u2",
        "MIT",
        ("javascript", "markdown"),
        r"^[^/]+/(lib|doc/api|doc/contributing)/",
    ),
    Package("deb-src", "lua5.4", "", "MIT", ("c",), r"."),
    Package("deb-src", "musl", "", "MIT", ("c", "shell"), r"^[^/]+/(src|include|ldso|tools)/"),
    Package("deb-src", "sqlite3", "", "blessing (public domain)", ("c", "markdown"), r"^[^/]+/(src|ext)/"),
    Package(
        "deb-src",
        "curl",
        "",
        "curl (MIT-like)",
        ("c", "markdown", "shell", "config"),
        r"^[^/]+/(lib|src|docs|\.github)/",
    ),
    Package(
        "npm", "react-native", "0.76.5", "MIT", ("java", "kotlin", "javascript", "typescript", "shell", "markdown"), "."
    ),
    Package("npm", "@capacitor/android", "8.5.2", "MIT", ("java",), "."),
    Package("npm", "eslint", "10.15.0", "MIT", ("javascript",), r"/lib/"),
    Package("npm", "webpack", "5.112.2", "MIT", ("javascript",), r"/lib/"),
    Package("npm", "three", "0.187.0", "MIT", ("javascript",), r"/(src|examples/jsm)/"),
    Package("npm", "effect", "4.1.0", "MIT", ("typescript", "markdown"), r"/src/|\.md$"),
    Package("npm", "rxjs", "7.8.2", "Apache-2.0", ("typescript",), r"/src/"),
)
