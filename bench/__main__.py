"""``python -m bench``: run studies and write results/; ``python -m bench compare OLD NEW`` reads benchmark files."""

import argparse
import logging
import sys
from pathlib import Path

from bench import compare, readme, runner
from bench.studies import STUDIES
from geomkit.errors import BackendUnavailableError, GeomkitError

RESULTS = Path(__file__).resolve().parent.parent / "results"


_ABOUT = "Run studies and write their tables and figures to results/. `bench compare OLD NEW` compares benchmark files."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(2, f"bench: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, run the studies, and return an exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["compare"]:
        return compare.main(given[1:])
    parser = _Parser(prog="python -m bench", description=_ABOUT)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="all of them unless named")
    parser.add_argument("--list", action="store_true", help="say what there is and stop")
    parser.add_argument("--quick", action="store_true", help="small slices, under two minutes, into results/quick/")
    parser.add_argument("--all", action="store_true", help="attempt the optional sources too, fetching what they need")
    parser.add_argument("--force", action="store_true", help="run again what is up to date")
    parser.add_argument("--draw", action="store_true", help="draw the figures again from the tables, and stop")
    parser.add_argument("--seed", type=int, default=0, help="draws random vectors and samples (default 0)")
    parser.add_argument("--out", type=Path, default=None, help="another folder than results/")
    asked = parser.parse_args(given)
    logging.basicConfig(format="bench: %(message)s", level=logging.WARNING, stream=sys.stderr)
    if asked.list:
        for study in STUDIES.values():
            print(f"{study.name:<12} {study.about}")
        return 0
    unknown = [name for name in asked.studies if name not in STUDIES]
    if unknown:
        parser.error(f"no study is called {', '.join(unknown)}; there are {', '.join(STUDIES)}")
    out = asked.out or (RESULTS / "quick" if asked.quick else RESULTS)
    try:
        for name in asked.studies or list(STUDIES):
            context = runner.Context(
                study=name, out=out, quick=asked.quick, everything=asked.all, seed=asked.seed, files=[]
            )
            if asked.draw:
                if asked.studies or STUDIES[name].draw:
                    runner.redraw(STUDIES[name], context)
                continue
            if not _can_run(STUDIES[name], context, alone=bool(asked.studies)):
                continue
            runner.run(STUDIES[name], context, force=asked.force)
            if name in readme.BLOCKS and out == RESULTS:
                readme.refresh(RESULTS.parent, RESULTS, name)
    except (GeomkitError, OSError) as refused:
        print(f"bench: {' '.join(str(refused).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    return 0


def _can_run(study: runner.Study, context: runner.Context, *, alone: bool) -> bool:
    """Whether this machine has what a study needs; where it was asked for by name, it must."""
    try:
        study.needs()
    except BackendUnavailableError as lacking:
        if alone:
            msg = f"study {study.name} cannot run here: {lacking}"
            raise BackendUnavailableError(msg) from lacking
        context.say(f"does not run here, and its files stay as they are: {lacking}")
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
