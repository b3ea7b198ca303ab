"""What is current, what is stale and why, and how long the rest will take, for a terminal and for scripts."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from bench.harness.code_keys import Code
from bench.harness.execute import in_order
from bench.harness.plan import Plan, planned
from bench.harness.study import Context, Study
from geomkit.errors import GeomkitError

__all__ = ["Line", "lines", "print_status"]


@dataclass(frozen=True, slots=True)
class Line:
    """The state of one unit, or of what is made from all units of a study."""

    study: str
    unit: str
    """``tables and figures`` for what is made from the units."""
    state: str
    """``current``, ``stale`` or ``never measured``."""
    why: str
    seconds: float | None
    """What it took the last time; None where it was never measured."""


def lines(studies: Sequence[Study], context_of: Callable[[str], Context]) -> list[Line]:
    """Return a line for each unit of each study, and one for each study's tables and figures."""
    code = Code()
    out = []
    for study in in_order(studies):
        try:
            plan = planned(study, context_of(study.name), code)
        except (GeomkitError, OSError) as why:
            out.append(Line(study.name, "", "never measured", str(why), None))
            continue
        out += _of(plan)
    return out


def _of(plan: Plan) -> list[Line]:
    study, lacking = plan.study, plan.study.lacking()
    out = []
    for each in plan.units:
        # What is measured and kept is no work any more, though its tables are.
        state = "current" if each.state == "kept" else each.state
        why = f"cannot run here: {lacking}" if lacking and state != "current" else each.why
        if each.unit.absent and state == "current":
            why = why or f"no figures: {each.unit.absent}"
        out.append(Line(study.name, each.unit.name, state, why, each.seconds))
    undone = plan.trouble or plan.undone
    never = plan.known is None and not plan.trouble
    state = "never measured" if never else "stale" if undone else "current"
    out.append(Line(study.name, "tables and figures", state, undone, None))
    return out


def print_status(found: Sequence[Line], *, as_json: bool) -> None:
    """Print all lines as JSON, or a summary for people: stale units by reason."""
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=1))
        return
    for study in dict.fromkeys(each.study for each in found):
        mine = [each for each in found if each.study == study]
        units = [each for each in mine if each.unit != "tables and figures"]
        current = sum(each.state == "current" for each in units)
        rest = [each for each in units if each.state != "current"]
        seconds = [each.seconds for each in rest if each.seconds is not None]
        more = "" if len(seconds) == len(rest) else f" and {len(rest) - len(seconds)} that were never timed"
        took = f"; {sum(seconds):,.0f} s on one core{more}" if seconds else "" if not rest else "; never timed"
        print(f"{study:<16} {current} of {len(units)} units current{took}")
        for (state, why), count in Counter((each.state, each.why) for each in rest).items():
            print(f"{'':<16} {count} {state}{f': {why}' if why else ''}")
        for each in mine:
            if each.unit == "tables and figures" and each.state != "current":
                print(f"{'':<16} tables and figures {each.state}: {each.why}")
    sys.stdout.flush()
