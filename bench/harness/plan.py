"""What of a study is current, what is stale and why: its units, its conclusions and its figures."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.harness import provenance
from bench.harness.code_keys import Closure, Code
from bench.harness.provenance import Provenance, Record
from bench.harness.store import is_kept
from bench.harness.study import Context, Study, Unit
from geomkit import datasets
from geomkit.datasets.catalogue import PACKAGES
from geomkit.errors import InvalidInputError

__all__ = ["Plan", "Planned", "State", "planned"]

State = Literal["current", "kept", "stale", "never measured"]
"""``kept`` is measured, but its tables are not in the results folder yet."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A unit, and whether it must be measured."""

    unit: Unit
    key: str
    state: State
    why: str = ""
    seconds: float | None = None
    """What it took the last time, on the machine that its provenance names."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A study, and what of it must be done."""

    study: Study
    context: Context
    units: tuple[Planned, ...]
    known: Provenance | None
    settings: dict[str, Any]
    code: dict[str, str]
    """Digests of what all units reach, by module."""
    data: dict[str, str]
    """Digests of the packages that all units read."""
    conclusion: str
    """Key of what it concludes from its tables."""
    drawing: str
    """Key of the code that draws its figures."""
    trouble: str = ""
    """What is wrong with its provenance, if anything."""

    @property
    def pending(self) -> list[Planned]:
        """Units that must be measured."""
        return [each for each in self.units if each.state in {"stale", "never measured"}]

    @property
    def undone(self) -> str:
        """What is to be done after the units, and why; empty where nothing is."""
        known = self.known
        if known is None:
            return "never written"
        reasons = {
            "units changed": any(each.state != "current" for each in self.units),
            "a unit is no more": list(known.units) != [each.unit.name for each in self.units],
            "what concludes from its tables, or a table that this reads, changed": known.conclusion != self.conclusion,
            "a file is missing or was edited": not known.intact(self.context.out),
            "the drawing of its figures changed": known.drawing.get("key", "") != self.drawing,
        }
        return next((reason for reason, holds in reasons.items() if holds), "")


def planned(study: Study, context: Context, code: Code) -> Plan:
    """Find out what of a study is current.

    Raises
    ------
    InvalidInputError, SourceUnavailableError
        Its units cannot be listed.
    """
    known, trouble = None, ""
    try:
        known = provenance.read(context.out, study.name)
    except InvalidInputError as why:
        trouble = f"{why}; `python -m bench {study.name}` measures it again"
    settings = {"quick": context.quick, "seed": context.seed, "version": study.version}
    intact = known is not None and known.intact(context.out, ".csv")
    units, modules, packages = [], dict[str, str](), set[str]()
    for unit in study.units(context) if study.measure is not None else ():
        assert study.measure is not None
        read = [datasets.get(name) for name in unit.sources]
        made = code.closure_of([study.measure, *(each.load for each in read)])
        made = made if study.by_code else Closure({}, made.packages)
        data = _data({*made.packages, *(package for each in read for package in each.packages)})
        parts = {
            "study": study.name, "unit": unit.name, "code": made.modules, "data": data, "settings": settings,
            "given": unit.given,
        }  # fmt: skip
        key, without = _key(parts), _key(parts | {"absent": unit.absent})
        before = known.units.get(unit.name) if known is not None else None
        # What was measured where its source is counts where it is not, as long as nothing else has changed.
        asked = key if not unit.absent or (before is not None and before.key == key) else without
        units.append(_planned(study, unit, asked, before, _Now(made.modules, data, settings, known, intact=intact)))
        modules |= made.modules
        packages |= set(data)
    return Plan(
        study=study,
        context=context,
        units=tuple(units),
        known=known,
        settings=settings,
        code=modules,
        data=_data(packages),
        conclusion=_conclusion(study, context, code),
        drawing=code.drawing_key(study.draw) if study.draw is not None else "",
        trouble=trouble,
    )


@dataclass(frozen=True, slots=True)
class _Now:
    """What a unit depends on now, and what the provenance says of then."""

    modules: dict[str, str]
    data: dict[str, str]
    settings: dict[str, Any]
    known: Provenance | None
    intact: bool


def _planned(study: Study, unit: Unit, key: str, before: Record | None, now: _Now) -> Planned:
    seconds = before.seconds if before is not None else None
    if before is not None and before.key == key and now.intact:
        return Planned(unit, key, "current", seconds=seconds)
    if is_kept(study.name, unit.name, key):
        return Planned(unit, key, "kept", "measured, and not in the tables yet", seconds)
    if before is None and now.known is not None and not now.known.units:
        return Planned(unit, key, "stale", "its tables are of a version that did not record units")
    if before is None:
        return Planned(unit, key, "never measured")
    return Planned(unit, key, "stale", _why(unit, key, before, now), seconds)


def _why(unit: Unit, key: str, before: Record, now: _Now) -> str:
    """Name what has changed since a unit was measured."""
    known = now.known
    assert known is not None
    if before.key == key:
        return "table: missing or edited"
    changed = [f"{name} is now {value}" for name, value in now.settings.items() if known.settings.get(name) != value]
    code = [name for name, digest in now.modules.items() if known.code.get(name) != digest]
    data = [name for name, digest in now.data.items() if known.data.get(name) != digest]
    for kind, names in (("setting", changed), ("code", code), ("data", data)):
        if names:
            return f"{kind}: {_some(names)}"
    if before.absent != unit.absent:
        return f"data: {unit.absent or 'its source is here now'}"
    # What a unit no longer reaches leaves no other trace.
    return "data: a table that it reads" if unit.given else "code: it reaches less of it"


def _some(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more


def _data(packages: Iterable[str]) -> dict[str, str]:
    return {name: PACKAGES[name].sha256[:16] for name in sorted(packages)}


def _conclusion(study: Study, context: Context, code: Code) -> str:
    made = code.drawing_of([study.conclude]) if study.conclude is not None else {}
    read = {name: _tables(context, name) for name in study.reads}
    return _key({"code": made, "assets": code.assets if made else "", "reads": read})


def _tables(context: Context, study: str) -> dict[str, str]:
    """Digests of the tables of another study, as its provenance has them."""
    try:
        known = provenance.read(context.out, study)
    except InvalidInputError:
        return {}
    return {name: digest for name, digest in known.files.items() if name.endswith(".csv")} if known else {}


def _key(parts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
