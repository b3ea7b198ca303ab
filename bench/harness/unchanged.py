"""A shortcut for a run that would find everything current: nothing has changed since a run that left it so.

Finding out what is current means importing every study and reading the syntax trees of what they reach, which takes
seconds. Whether any file of the code, of the results or of the cache's packages has changed takes a fraction of one.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from geomkit.core.cache import cache_folder
from geomkit.datasets.catalogue import PACKAGES
from geomkit.datasets.fetch import is_cached

__all__ = ["fingerprint", "is_current", "remember"]

_CODE = ("*.py", "*.md", "*.mplstyle", "*.css", "*.js", "*.j2")


def fingerprint(root: Path, out: Path, asked: Iterable[object]) -> str:
    """Identify all that decides what a run does: code, pages, results, packages of data that are here, what is asked.

    Parameters
    ----------
    root : Path
        Of the project.
    out : Path
        Folder of results.
    asked : iterable
        Studies and settings.
    """
    digest = hashlib.sha256(repr(tuple(asked)).encode())
    code = [path for folder in ("geomkit", "bench") for kind in _CODE for path in (root / folder).rglob(kind)]
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    results = [path for path in out.glob("*") if path.is_file()]
    for path in sorted([*code, *pages, *results]):
        digest.update(f"{path}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    digest.update(repr([name for name, package in PACKAGES.items() if is_cached(package)]).encode())
    return digest.hexdigest()


def is_current(mark: str) -> bool:
    """Say whether a run with this fingerprint found or left everything current."""
    return (_folder() / mark).is_file()


def remember(mark: str) -> None:
    """Note that everything is current; an earlier note is of no more use."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    for old in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)[:-20]:
        old.unlink(missing_ok=True)
    (folder / mark).touch()


def _folder() -> Path:
    return cache_folder() / "studies" / ".current"
