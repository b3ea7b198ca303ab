"""``python -m bench``: run studies and write results/; ``status`` says what is current; ``compare`` reads timings."""

import argparse
import difflib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from geomkit.errors import GeomkitError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.harness.execute import Failure
    from bench.harness.study import Context, Study

_ABOUT = (
    "Run studies and write their tables and figures to results/: what is current is left alone. `status` says what is "
    "current, what is stale and why; `compare OLD NEW` compares benchmark files."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"bench: {message}\n")


def _parser() -> _Parser:
    parser = _Parser(prog="python -m bench", description=_ABOUT)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="all of them unless named; first `status` to ask")
    parser.add_argument("--list", action="store_true", help="say what there is and stop")
    parser.add_argument("--quick", action="store_true", help="small slices, under two minutes, into results/quick/")
    parser.add_argument("--all", action="store_true", help="attempt the optional sources too, fetching what they need")
    parser.add_argument("--force", action="store_true", help="measure again what is current")
    parser.add_argument("--draw", action="store_true", help="draw the figures again from the tables; measure nothing")
    parser.add_argument("--seed", type=int, default=0, help="draws random vectors and samples (default 0)")
    parser.add_argument("--out", type=Path, default=None, help="another folder than results/")
    parser.add_argument("--jobs", type=int, default=None, help="processes side by side (default: one a core; 0: none)")
    parser.add_argument("--json", action="store_true", help="with `status`: for scripts")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the studies, and return an exit code.

    Returns
    -------
    int
        0; 1 where a unit or a study failed; 2 where an argument, a file or the data is at fault; 130 if interrupted.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["compare"]:
        from bench.speed import regressions

        return regressions.main(given[1:])
    parser = _parser()
    asked = parser.parse_args(given)
    logging.basicConfig(format="bench: %(message)s", level=logging.WARNING, stream=sys.stderr)
    try:
        return _run(parser, asked)
    except (GeomkitError, OSError) as refused:
        print(f"bench: {' '.join(str(refused).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; what was measured is kept", file=sys.stderr)
        return 130


def _run(parser: _Parser, asked: argparse.Namespace) -> int:
    from bench.harness import unchanged
    from bench.harness.study import RESULTS, ROOT, Context
    from geomkit.core.threads import processors

    out = asked.out or (RESULTS / "quick" if asked.quick else RESULTS)
    settings = (sorted(asked.studies), asked.quick, asked.all, asked.seed)
    plain = not (asked.list or asked.force or asked.draw or asked.json or asked.studies[:1] == ["status"])
    if plain and unchanged.is_current(unchanged.fingerprint(ROOT, out, settings)):
        print(f"bench: up to date: {', '.join(asked.studies) or 'all studies'}", file=sys.stderr)
        return 0

    from bench.harness import status
    from bench.harness.execute import execute
    from bench.studies import STUDIES

    if asked.list:
        for study in STUDIES.values():
            print(f"{study.name:<16} {study.about}")
        return 0
    asks = asked.studies[:1] == ["status"]
    names = asked.studies[1:] if asks else asked.studies
    for name in names:
        if name not in STUDIES:
            close = difflib.get_close_matches(name, STUDIES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(STUDIES)}"
            parser.error(f"no study is called {name}; {hint}")
    if asked.jobs is not None and asked.jobs < 0:
        parser.error(f"--jobs must be 0 or more; got {asked.jobs}")
    if asked.json and not asks:
        parser.error("--json goes with status: python -m bench status --json")

    def context_of(name: str) -> Context:
        return Context(name, out, quick=asked.quick, everything=asked.all, seed=asked.seed)

    studies = [STUDIES[name] for name in names or STUDIES]
    if asks:
        status.print_status(status.lines(studies, context_of), as_json=asked.json)
        return 0
    if asked.draw:
        return _draw(studies, context_of, named=bool(names))
    studies = _able(studies, named=bool(names))
    jobs = processors() if asked.jobs is None else asked.jobs
    _, failures = execute(studies, context_of, jobs=jobs, force=asked.force)
    if out == RESULTS and not failures:
        from bench.pages import readme

        for name in readme.BLOCKS:
            readme.refresh(RESULTS.parent, RESULTS, name)
    if not failures:
        unchanged.remember(unchanged.fingerprint(ROOT, out, settings))
    return _told(failures)


def _able(studies: "Sequence[Study]", *, named: bool) -> "list[Study]":
    """Leave out studies that this machine lacks something for; those that were asked for by name it must not."""
    from geomkit.errors import BackendUnavailableError

    out = []
    for study in studies:
        lacking = study.lacking()
        if lacking and named:
            msg = f"study {study.name} cannot run here: {lacking}"
            raise BackendUnavailableError(msg)
        if lacking:
            print(f"{study.name}: does not run here, and its files stay as they are: {lacking}", file=sys.stderr)
        else:
            out.append(study)
    return out


def _draw(studies: "Sequence[Study]", context_of: "Callable[[str], Context]", *, named: bool) -> int:
    """Draw figures from the tables that are there."""
    from bench.harness.code_keys import Code
    from bench.harness.finish import redraw
    from geomkit.errors import InvalidInputError

    code = Code()
    for study in studies:
        if study.draw is None:
            if named:
                msg = f"study {study.name} draws no figures"
                raise InvalidInputError(msg)
            continue
        redraw(study, context_of(study.name), code)
    return 0


def _told(failures: "Sequence[Failure]") -> int:
    """Say what failed, a line each, and return the exit code."""
    for each in failures:
        where = f"{each.study}, {each.unit}" if each.unit else each.study
        if each.trace:
            print(each.trace, file=sys.stderr)
        print(f"bench: {where}: {each.why}", file=sys.stderr)
    if not failures:
        return 0
    print("bench: what else was measured is kept; the same command goes on from there", file=sys.stderr)
    return 2 if all(each.refused for each in failures) else 1


if __name__ == "__main__":
    sys.exit(main())
