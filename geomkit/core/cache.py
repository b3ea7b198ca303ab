"""The cache folder: complete folders only, each sealed by a manifest that is written last.

Everything cached, an unpacked package or an array that took minutes, is a folder built under a temporary name, sealed
with the size, time and SHA-256 of each file, flushed to disk and renamed into place. A killed run leaves only a
temporary folder, which the next run removes. A file whose size or time differs from its seal is hashed before it is
trusted; a folder that fails is built again.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomkit.core.atomic import flush, replacing
from geomkit.core.optional import require
from geomkit.errors import SourceUnavailableError

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT = 1  # of the manifest; a folder sealed in another format is built again
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CHUNK = 1 << 20


def cache_folder() -> Path:
    """Return the folder that downloads and derived arrays live in.

    Returns
    -------
    Path
        The environment variable `GEOMKIT_CACHE` where set and not empty, else the user's cache folder as the platform
        defines it. It need not exist.
    """
    asked = os.environ.get("GEOMKIT_CACHE")
    if asked:
        return Path(asked).expanduser()
    return Path(require("platformdirs").user_cache_path("geomkit"))


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_of(parts: Mapping[str, object]) -> str:
    """Return 16 hexadecimal digits that identify `parts`, a mapping that JSON can hold, in any order of its keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock `name` across processes and threads; says so in the log when another holds it."""
    filelock = require("filelock")
    folder = cache_folder() / "locks"
    with _speaking_of_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            log.warning("waiting for another run that is preparing %s", name)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def cached_folder(where: str, parts: Mapping[str, object], build: Callable[[Path], None]) -> Path:
    """Return a complete cached folder, built now where there is none or it is corrupt.

    Parameters
    ----------
    where : str
        Its place under the cache folder, such as "packages/name-1.0".
    parts : mapping
        What it was made of, as JSON can hold it. A folder made of other parts is built again.
    build : callable
        Fills an empty folder. It may raise; then nothing is left behind.

    Returns
    -------
    Path
        Every file in it is as it was sealed, by size and time, or else by SHA-256.

    Raises
    ------
    SourceUnavailableError
        The disk is full or the cache folder cannot be written.
    """
    folder = cache_folder() / where
    if _looks_intact(folder, parts):
        return folder
    with locked(where.replace("/", "-")), _speaking_of_disk(folder):
        if _is_intact(folder, parts):
            return folder
        if folder.exists():
            log.warning("%s is corrupt or out of date; making it again", folder)
            shutil.rmtree(folder)
        unfinished = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            build(unfinished)
            _seal(unfinished, parts)
            unfinished.replace(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def cached_array(
    what: str, parts: Mapping[str, object], compute: Callable[[], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return an array computed once and kept.

    Parameters
    ----------
    what : str
        A word for the folder's name, such as "lsa".
    parts : mapping
        What the array depends on: inputs by hash, parameters, seed, version of the code.
    compute : callable
        Makes the array; called only where the cache has none that is intact.

    Returns
    -------
    ndarray
        Read-only and memory-mapped, so that a few rows of a large array cost little.
    """
    folder = cached_folder(derived(what, parts), parts, lambda into: np.save(into / "array.npy", compute()))
    return read_array(folder / "array.npy")


def derived(what: str, parts: Mapping[str, object]) -> str:
    """Return the place under the cache folder for something made of `parts`."""
    return f"derived/{what}-{key_of(parts)}"


def read_array(path: Path) -> NDArray[np.float32]:
    """Return a memory map of a .npy file, never unpickling anything."""
    array: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def size_on_disk(folder: Path) -> int:
    """Return the bytes of all files under a folder, 0 where it does not exist."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def is_complete(where: str, parts: Mapping[str, object]) -> bool:
    """Say whether a cached folder is there, sealed, and of the sizes and times that were sealed; hashes nothing."""
    return _looks_intact(cache_folder() / where, parts)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _seal(folder: Path, parts: Mapping[str, object]) -> None:
    files = {}
    for path in _files(folder):
        flush(path)
        stat = path.stat()
        files[path.relative_to(folder).as_posix()] = {
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "sha256": sha256_of(path),
        }
    _write_manifest(folder, {"format": FORMAT, "parts": dict(parts), "files": files})


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    with replacing(folder / MANIFEST) as part:
        part.write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")


def _read_manifest(folder: Path, parts: Mapping[str, object]) -> dict[str, Any] | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        same = manifest["format"] == FORMAT and key_of(manifest["parts"]) == key_of(parts)
        return manifest if same and isinstance(manifest["files"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _looks_intact(folder: Path, parts: Mapping[str, object]) -> bool:
    manifest = _read_manifest(folder, parts)
    return manifest is not None and not _changed(folder, manifest)


def _changed(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the files whose size or time is not as sealed; a missing file is one of them."""
    changed = []
    for name, seal in manifest["files"].items():
        try:
            stat = (folder / name).stat()
        except OSError:
            changed.append(name)
            continue
        if (stat.st_size, stat.st_mtime_ns) != (seal["size"], seal["mtime_ns"]):
            changed.append(name)
    return changed


def _is_intact(folder: Path, parts: Mapping[str, object]) -> bool:
    """Hash the files whose size or time differs; seal again those that a copy or an unpacked archive only re-dated."""
    manifest = _read_manifest(folder, parts)
    if manifest is None:
        return False
    changed = _changed(folder, manifest)
    for name in changed:
        path, seal = folder / name, manifest["files"][name]
        if not path.is_file() or path.stat().st_size != seal["size"] or sha256_of(path) != seal["sha256"]:
            return False
        seal["mtime_ns"] = path.stat().st_mtime_ns
    if changed:
        _write_manifest(folder, manifest)
    return True


@contextlib.contextmanager
def _speaking_of_disk(folder: Path) -> Iterator[None]:
    """Turn a full or unwritable disk into an error of ours; let every other error through."""
    try:
        yield
    except OSError as why:
        if why.errno in _FULL:
            msg = f"the disk is full: {folder} could not be written ({why.strerror}); set GEOMKIT_CACHE to another disk"
            raise SourceUnavailableError(msg) from why
        if why.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            msg = f"{folder} cannot be written ({why.strerror}); set GEOMKIT_CACHE to a folder that can"
            raise SourceUnavailableError(msg) from why
        raise
