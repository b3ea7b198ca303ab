"""Tables, conclusions and figures of a study, from its units; and the provenance that says what made them."""

import csv
from dataclasses import asdict
from pathlib import Path

from bench.harness import provenance
from bench.harness.code_keys import Code
from bench.harness.plan import Plan
from bench.harness.provenance import Provenance, Record, sha256
from bench.harness.store import Kept, Rows, kept, machine, read_rows, today
from bench.harness.study import Context, Study
from geomkit.errors import InvalidInputError

__all__ = ["finish", "redraw"]


def finish(plan: Plan) -> list[str]:
    """Write what a study still lacks: its tables, what it concludes, its figures, and its provenance, which is last.

    Parameters
    ----------
    plan : Plan
        With no unit pending.

    Returns
    -------
    list of str
        Names of the files that were written.
    """
    study, context, known = plan.study, plan.context, plan.known
    made = Provenance(
        study=study.name,
        command=_command(plan),
        settings=plan.settings,
        code=plan.code,
        data=plan.data,
        conclusion=plan.conclusion,
        drawing=dict(known.drawing) if known is not None else {},
    )
    units_changed = known is None or not known.intact(context.out, ".csv") or any(
        each.state != "current" for each in plan.units
    ) or list(known.units) != [each.unit.name for each in plan.units]  # fmt: skip
    _assemble(plan, made, write=units_changed)
    if units_changed or known is None or known.conclusion != plan.conclusion:
        if study.conclude is not None:
            study.conclude(context)
        units_changed = True
    drawn = known is not None and made.drawing.get("key") == plan.drawing and known.intact(context.out)
    if study.draw is not None and (units_changed or not drawn):
        study.draw(context)
        made.drawing = _drawing(plan.drawing)
    written = sorted(path.name for path in context.files)
    before = known.files if known is not None and not units_changed else {}
    made.files = {name: sha256(context.out / name) for name in sorted({*before, *written})}
    for name in sorted(set(known.files if known is not None else ()) - set(made.files) - _of_others(plan)):
        (context.out / name).unlink(missing_ok=True)
    provenance.write(context.out, made)
    return written


def _of_others(plan: Plan) -> set[str]:
    """Files that other studies have written, one of which may have taken over a table."""
    names = (path.name.removesuffix(".provenance.json") for path in plan.context.out.glob("*.provenance.json"))
    found: set[str] = set()
    for name in names:
        if name != plan.study.name:
            try:
                other = provenance.read(plan.context.out, name)
            except InvalidInputError:
                continue
            found |= set(other.files) if other is not None else set()
    return found


def redraw(study: Study, context: Context, code: Code) -> list[str]:
    """Draw the figures of a study from the tables that are there; measures nothing.

    Raises
    ------
    InvalidInputError
        There are no tables, or they are not as they were written.
    """
    assert study.draw is not None
    known = provenance.read(context.out, study.name)
    if known is None:
        msg = f"there is no {study.name}.provenance.json in {context.out}; run `python -m bench {study.name}` first"
        raise InvalidInputError(msg)
    if not known.intact(context.out, ".csv"):
        how = f"`python -m bench {study.name}` writes it"
        msg = f"a table of {study.name} in {context.out} is missing or was edited; {how}"
        raise InvalidInputError(msg)
    study.draw(context)
    written = sorted(path.name for path in context.files)
    known.drawing = _drawing(code.drawing_key(study.draw))
    known.files |= {name: sha256(context.out / name) for name in written}
    provenance.write(context.out, known)
    return written


def _drawing(key: str) -> dict[str, str]:
    versions = machine().versions
    return {"key": key, "date": today(), "geomkit": versions["geomkit"], "matplotlib": versions["matplotlib"]}


def _command(plan: Plan) -> str:
    context = plan.context
    options = [name for name, on in (("--quick", context.quick), ("--all", context.everything)) if on]
    return " ".join(["python -m bench", plan.study.name, *options, f"--seed {context.seed}"])


def _assemble(plan: Plan, made: Provenance, *, write: bool) -> None:
    """Put the tables of all units one below the other, and record which rows are whose."""
    known, context = plan.known, plan.context
    earlier = _Earlier(known, context.out) if known is not None else None
    parts: dict[str, dict[str, Rows]] = {}
    for each in plan.units:
        name = each.unit.name
        if each.state == "current":
            assert known is not None
            assert earlier is not None
            record = known.units[name]
            before = known.machines[record.machine]
            one = Kept(earlier.tables(name) if write else {}, record.seconds, record.date, before)
        else:
            record = None
            one = kept(plan.study.name, name, each.key)
        if one.machine not in made.machines:
            made.machines.append(one.machine)
        made.units[name] = Record(
            key=each.key, seconds=one.seconds, date=one.date, machine=made.machines.index(one.machine),
            rows=record.rows if record is not None else {table: len(rows) - 1 for table, rows in one.tables.items()},
            columns=record.columns if record is not None else {}, absent=_absent(plan, name, each.key),
        )  # fmt: skip
        for table, found in one.tables.items():
            parts.setdefault(table, {})[name] = found
    if not plan.units:
        made.machines.append(asdict(machine()))
    made.seconds = round(sum(each.seconds for each in made.units.values()), 1)
    made.date = max((each.date for each in made.units.values()), default=today())
    for table, of_units in parts.items() if write else ():
        columns = _write(context, table, list(of_units.values()))
        for name, rows in of_units.items():
            made.units[name].columns.pop(table, None)
            if rows[0] != columns:
                made.units[name].columns[table] = rows[0]


def _absent(plan: Plan, name: str, key: str) -> str:
    """Why a unit has no figures: nothing where it was measured elsewhere though its source is not here."""
    known = plan.known.units.get(name) if plan.known is not None else None
    if known is not None and known.key == key:
        return known.absent
    return next(each.unit.absent for each in plan.units if each.unit.name == name)


class _Earlier:
    """Rows of the tables that are there, by the units that they are of."""

    def __init__(self, known: Provenance, out: Path) -> None:
        self._known, self._out = known, out
        self._read: dict[str, Rows] = {}

    def tables(self, unit: str) -> dict[str, Rows]:
        record = self._known.units[unit]
        return {name: self._of(unit, name, record.columns.get(name)) for name in record.rows}

    def _of(self, unit: str, table: str, columns: list[str] | None) -> Rows:
        if table not in self._read:
            self._read[table] = read_rows(self._out / table)
        header, *rows = self._read[table]
        start = 0
        for name, record in self._known.units.items():
            if name == unit:
                break
            start += record.rows.get(table, 0)
        mine = rows[start : start + self._known.units[unit].rows[table]]
        if columns is None:
            return [header, *mine]
        places = [header.index(column) for column in columns]
        return [columns, *([row[at] for at in places] for row in mine)]


def _write(context: Context, name: str, parts: list[Rows]) -> list[str]:
    """Write tables one below the other, and return their columns; one that a table lacks is empty there."""
    columns = list(dict.fromkeys(column for rows in parts for column in rows[0]))
    with context.file(name) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for rows in parts:
            place = {column: at for at, column in enumerate(rows[0])}
            order = [place.get(column) for column in columns]
            writer.writerows([["" if at is None else row[at] for at in order] for row in rows[1:]])
    return columns
