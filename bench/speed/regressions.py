"""``python -m bench compare OLD NEW``: which of two benchmark files' differences are real.

A change is the ratio of the new median time to the old one. Its interval comes from order statistics: with m rounds the
r-th smallest and the r-th largest time enclose the median with a probability that the binomial distribution gives,
whatever the distribution of times; the ratio's interval pairs the ends of both, each at confidence ``1 - 0.05/2``, and
so holds at 95 % at least.

Two runs differ in more than code: the machine was busier, or is another one. Peers tell, since nothing that we change
makes them faster. The median ratio over peers is the drift, by which all ratios are divided; and the spread of the
peers' ratios about it (the greatest after leaving out the most extreme tenth) is the noise between runs. A change is
called real where the whole interval lies beyond drift and noise. Ours is read against peers: without peers in both
files nothing is called real. Another function of ours in the same group is no peer.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.speed.timing import median_interval
from geomkit.errors import InvalidInputError

CONFIDENCE = 0.95
LEFT_OUT = 0.1
"""Share of the peers that may lie outside of what counts as noise between runs."""


@dataclass(frozen=True, slots=True)
class Change:
    """One benchmark in two files."""

    name: str
    old: float
    """Median seconds."""
    new: float
    ratio: float
    """New over old."""
    low: float
    high: float
    """Interval of the ratio; infinite where there were too few rounds."""
    verdict: str
    """``slower``, ``faster``, ``no change seen``, or ``peer``."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two files."""

    changes: list[Change]
    drift: float
    """Median ratio of the peers; NaN without any."""
    noise: float
    """Factor by which peers differ from the drift."""
    only_old: list[str]
    only_new: list[str]
    machines: tuple[dict[str, Any], dict[str, Any]]


def reduced(report: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any]:
    """Keep of pytest-benchmark's report what a comparison needs: no host name, no path.

    Parameters
    ----------
    report : dict
        As pytest-benchmark makes it.
    machine : dict
        What to say of the machine and the versions.
    """
    kept = []
    for benchmark in report["benchmarks"]:
        seconds = [float(f"{value:.4g}") for value in benchmark["stats"]["data"]]
        about = dict(benchmark["extra_info"])
        kept.append(
            {
                "name": benchmark["name"],
                "group": benchmark["group"],
                **about,
                "median": float(np.median(seconds)),
                "seconds": seconds,
            }
        )
    commit = report.get("commit_info", {})
    return {
        "date": report["datetime"][:10],
        "commit": {name: commit.get(name) for name in ("id", "dirty")},
        "machine": machine,
        "benchmarks": kept,
    }


def compare(old: dict[str, Any], new: dict[str, Any]) -> Comparison:
    """Compare two reduced files, benchmark by benchmark."""
    before, after = ({benchmark["name"]: benchmark for benchmark in file["benchmarks"]} for file in (old, new))
    both = [name for name in before if name in after]
    # Other sizes under the same name cannot be compared.
    size = ("kernel", "contender", "precision", "n", "d", "setting", "data")
    for name in both:
        differ = [key for key in size if before[name].get(key) != after[name].get(key)]
        if differ:
            msg = f"{name} differs in {', '.join(differ)} between the two files"
            raise InvalidInputError(msg)
    ratios = {name: after[name]["median"] / before[name]["median"] for name in both}
    peers = [math.log(ratios[name]) for name in both if before[name]["peer"]]
    drift = math.exp(float(np.median(peers))) if peers else math.nan
    apart = np.abs(np.array(peers) - math.log(drift)) if peers else np.array([math.inf])
    noise = math.exp(float(np.quantile(apart, 1 - LEFT_OUT, method="higher")))
    changes = []
    for name in both:
        was, now = (median_interval(file[name]["seconds"], (1 + CONFIDENCE) / 2) for file in (before, after))
        low = now.low / was.high
        high = now.high / was.low if was.low > 0 else math.inf
        verdict = "peer" if before[name]["peer"] else _verdict(low / drift, high / drift, noise)
        changes.append(Change(name, before[name]["median"], after[name]["median"], ratios[name], low, high, verdict))
    return Comparison(
        changes,
        drift,
        noise,
        [name for name in before if name not in after],
        [name for name in after if name not in before],
        (old["machine"], new["machine"]),
    )


def _verdict(low: float, high: float, noise: float) -> str:
    if low > noise:
        return "slower"
    return "faster" if high < 1 / noise else "no change seen"


def text(comparison: Comparison) -> str:
    """Say the comparison as a table."""
    lines = []
    for what in ("processor", "cores", "versions"):
        one, two = (machine.get(what) for machine in comparison.machines)
        if one != two:
            lines.append(f"the two runs differ in {what}: {json.dumps(one)} and {json.dumps(two)}")
    width = max([len(change.name) for change in comparison.changes], default=4)
    lines.append(f"{'name':<{width}} {'old':>11} {'new':>11} {'new/old':>8}  {'interval':<15}  verdict")
    lines += [
        f"{change.name:<{width}} {change.old:>9.4g} s {change.new:>9.4g} s {change.ratio:>8.3f}  "
        f"{f'{change.low:.3f} … {change.high:.3f}':<15}  {change.verdict}"
        for change in comparison.changes
    ]
    lines += [f"only in OLD: {name}" for name in comparison.only_old]
    lines += [f"only in NEW: {name}" for name in comparison.only_new]
    if math.isnan(comparison.drift):
        lines.append("no peers in both files: nothing can be called real")
    else:
        lines.append(
            f"peers: {comparison.drift:.3f} times the old time (drift), within a factor {comparison.noise:.3f} of that"
            f" (noise); a change is real where its whole interval lies beyond both"
        )
    return "\n".join(lines)


def load(path: Path) -> dict[str, Any]:
    """Read a reduced file.

    Raises
    ------
    InvalidInputError
        It is something else.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        assert {"machine", "benchmarks"} <= report.keys()
        assert all({"name", "peer", "median", "seconds"} <= benchmark.keys() for benchmark in report["benchmarks"])
    except (ValueError, AttributeError, TypeError, AssertionError) as why:
        msg = f"{path} is not a file that `make bench` wrote"
        raise InvalidInputError(msg) from why
    return dict(report)


def main(arguments: list[str]) -> int:
    """Parse the command line and print the table. Timings gate nothing: a slower run is no error."""
    parser = argparse.ArgumentParser(
        prog="python -m bench compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("old", type=Path, metavar="OLD", help="for example results/benchmark.baseline.json")
    parser.add_argument("new", type=Path, metavar="NEW", help="for example results/benchmark.json")
    options = parser.parse_args(arguments)
    try:
        print(text(compare(load(options.old), load(options.new))))
    except (InvalidInputError, OSError) as refused:
        print(f"bench: {' '.join(str(refused).split())}", file=sys.stderr)
        return 2
    return 0
