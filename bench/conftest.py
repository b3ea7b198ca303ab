"""What the pytest-benchmark suites share: sizes, the timing of a proven case, and the file that is kept."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from bench.harness.store import machine
from bench.speed.cases import Case
from bench.speed.regressions import reduced
from bench.studies.lookup import LookupCase

ROUNDS = 11
"""Enough for the second smallest and second largest time to enclose the median at 98.8 %."""

FEW = 200
"""Rows at most where cases run once and nothing is timed."""

_LIBRARIES = ("numpy", "scipy", "numba", "torch", "scikit-learn", "faiss-cpu", "numkong", "simsimd")

Rows = Callable[[int], int]
Timed = Callable[[Case | LookupCase, str], None]


@pytest.fixture
def rows(request: pytest.FixtureRequest) -> Rows:
    """Return the number of rows that a suite asks for, or fewer under ``--benchmark-disable``."""
    disabled = request.config.getoption("--benchmark-disable")
    return lambda n: min(n, FEW) if disabled else n


@pytest.fixture
def timed(benchmark: Any) -> Timed:
    """Return a function that times one contender of a case, which proves its answer before it is timed."""

    def run(case: Case | LookupCase, label: str) -> None:
        contender = next(one for one in case.contenders() if one.label == label)
        thunk = contender.prepare()
        facts = {name: getattr(case, name) for name in ("kernel", "setting", "data", "n", "d")}
        facts |= {"device": case.device} if case.device.startswith("cuda") else {}
        benchmark.group = " ".join(str(fact) for fact in facts.values() if fact)
        name = f"{contender.name} {contender.backend}".strip()
        who = {"contender": name, "precision": contender.precision, "peer": bool(contender.library)}
        benchmark.extra_info.update(facts | who | {"pairs": case.n * (case.n - 1) // 2})
        assert benchmark.pedantic(thunk, rounds=ROUNDS) is not None

    return run


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Keep what ``python -m bench compare`` needs, and no host name or path."""
    about = asdict(machine(_LIBRARIES))
    kept = reduced(output_json, {name: about[name] for name in ("processor", "cores", "versions")})
    output_json.clear()
    output_json.update(kept)
