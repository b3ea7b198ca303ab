"""results/<study>.provenance.json: what made each unit of a study, so that a fresh clone knows what is current."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from geomkit.core.atomic import written
from geomkit.errors import InvalidInputError

__all__ = ["FORMAT", "Provenance", "Record", "read", "sha256", "write"]

FORMAT = 2


@dataclass(frozen=True, slots=True)
class Record:
    """One unit: its key, what it took, and how many rows of each table are its own."""

    key: str
    seconds: float
    date: str
    machine: int
    """Place in the list of machines."""
    rows: dict[str, int]
    columns: dict[str, list[str]]
    """Of tables of which it does not have all columns."""
    absent: str = ""
    """Why it has no figures."""


@dataclass(slots=True)
class Provenance:
    """What made the files of a study."""

    study: str
    command: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    """Of all units."""
    date: str = ""
    """When the latest unit was measured."""
    machines: list[dict[str, Any]] = field(default_factory=list)
    code: dict[str, str] = field(default_factory=dict)
    """Digests of the code that the units reach, by module."""
    data: dict[str, str] = field(default_factory=dict)
    """Digests of the packages of data, by name."""
    units: dict[str, Record] = field(default_factory=dict)
    conclusion: str = ""
    """Key of what was concluded from the tables."""
    drawing: dict[str, str] = field(default_factory=dict)
    """Key of what was drawn from the tables, when, and with which versions."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file of the study in its folder."""

    def intact(self, out: Path, suffix: str = "") -> bool:
        """Say whether all files, or those with a suffix, are as they were written."""
        return all(
            (out / name).is_file() and sha256(out / name) == digest
            for name, digest in self.files.items()
            if name.endswith(suffix)
        )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place(out: Path, study: str) -> Path:
    """Return where the provenance of a study is."""
    return out / f"{study}.provenance.json"


def read(out: Path, study: str) -> Provenance | None:
    """Read what made the files of a study; None where it has none.

    Raises
    ------
    InvalidInputError
        The file is damaged, or of a version that did not say what made each unit.
    """
    path = place(out, study)
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("format") != FORMAT:
            msg = f"{path.name} has format {found.get('format', 1)}, which does not say what made each unit"
            raise InvalidInputError(msg)
        del found["format"]
        found["units"] = {name: Record(**each) for name, each in found["units"].items()}
        return Provenance(**found)
    except (ValueError, KeyError, TypeError, AttributeError) as why:
        if isinstance(why, InvalidInputError):
            raise
        msg = f"{path.name} is damaged"
        raise InvalidInputError(msg) from why


def write(out: Path, known: Provenance) -> None:
    """Write what made the files of a study."""
    with written(place(out, known.study)) as part:
        plain = {"format": FORMAT} | asdict(known)
        part.write_text(_dumped(plain), encoding="utf-8")


def _dumped(plain: dict[str, Any]) -> str:
    """Write JSON with a line an entry and a unit, so that a change of one shows as one."""
    lines = []
    for name, value in plain.items():
        if isinstance(value, dict) and value and name in {"units", "code", "data", "files"}:
            inner = ",\n".join(f"    {json.dumps(key)}: {json.dumps(each)}" for key, each in value.items())
            lines.append(f"  {json.dumps(name)}: {{\n{inner}\n  }}")
        else:
            lines.append(f"  {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"
