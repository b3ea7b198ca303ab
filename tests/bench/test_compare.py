"""A comparison calls real what is beyond rounds, drift and noise between runs, and nothing else."""

import json
import math

import numpy as np
import pytest

from bench import __main__ as command
from bench.speed import regressions, timing

MACHINE = {"processor": {"model": "toy"}, "cores": 2, "versions": {"numpy": "2"}}


def file(rounds=11, scale=None, everyone=1.0, machine=MACHINE, seed=0):
    rng = np.random.default_rng(seed)
    benchmarks = []
    for contender in ("geomkit", "faiss", "torch", "SciPy", "NumPy"):
        for d in (50, 768):
            name = f"test[{contender}-{d}]"
            factor = everyone * (scale or {}).get(name, 1.0)
            seconds = [float(t) for t in factor * (1 + 0.02 * rng.random(rounds))]
            benchmarks.append(
                {
                    "name": name, "group": "g", "kernel": "toy", "contender": contender, "precision": "float32",
                    "peer": contender != "geomkit",
                    "n": 10, "d": d, "setting": "", "data": "", "median": float(np.median(seconds)), "seconds": seconds,
                }
            )  # fmt: skip
    return {"date": "2026-01-01", "commit": {}, "machine": machine, "benchmarks": benchmarks}


def verdicts(found):
    return {change.name: change.verdict for change in found.changes if change.verdict != "peer"}


def test_an_interval_of_order_statistics_covers_the_median():
    assert timing.median_interval(list(range(1, 12)), 0.975)[1:] == (2, 10)  # 1 - 2 (1 + 11) / 2^11 = 0.988
    assert timing.median_interval(list(range(1, 12)), 0.99)[1:] == (1, 11)
    assert timing.median_interval([1.0, 2.0, 3.0], 0.975)[1:] == (0.0, math.inf)
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        _, low, high = timing.median_interval(rng.exponential(size=11), 0.95)
        hits += low <= math.log(2) <= high
    assert hits >= 0.95 * 400 - 10


def test_the_same_code_twice_shows_no_change():
    found = regressions.compare(file(), file(seed=1))
    assert set(verdicts(found).values()) == {"no change seen"}
    assert found.drift == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("factor", "verdict"), [(1.3, "slower"), (0.7, "faster")])
def test_a_real_change_is_called_real(factor, verdict):
    found = regressions.compare(file(), file(scale={"test[geomkit-768]": factor}, seed=1))
    assert verdicts(found) == {"test[geomkit-50]": "no change seen", "test[geomkit-768]": verdict}


def test_a_busier_machine_is_not_a_change():
    found = regressions.compare(file(), file(everyone=1.4, seed=1))
    assert found.drift == pytest.approx(1.4, rel=0.02)
    assert set(verdicts(found).values()) == {"no change seen"}
    hidden = regressions.compare(file(), file(everyone=1.4, scale={"test[geomkit-50]": 1 / 1.4}, seed=1))
    assert verdicts(hidden)["test[geomkit-50]"] == "faster"


def test_noise_between_runs_widens():
    shaken = {f"test[{name}-50]": factor for name, factor in (("faiss", 1.4), ("torch", 0.7), ("SciPy", 1.3))}
    found = regressions.compare(file(), file(scale=shaken | {"test[geomkit-768]": 1.3}, seed=1))
    assert found.noise > 1.25
    assert verdicts(found)["test[geomkit-768]"] == "no change seen"


def test_too_few_rounds_or_no_peers_say_nothing():
    found = regressions.compare(file(rounds=3), file(rounds=3, scale={"test[geomkit-50]": 9.0}))
    assert set(verdicts(found).values()) == {"no change seen"}
    alone = [
        each | {"benchmarks": [b for b in each["benchmarks"] if b["contender"] == "geomkit"]}
        for each in (file(), file(scale={"test[geomkit-50]": 9.0}))
    ]
    found = regressions.compare(*alone)
    assert set(verdicts(found).values()) == {"no change seen"}
    assert "nothing can be called real" in regressions.text(found)


def test_a_reduced_file_has_no_host_name_and_no_path():
    report = {
        "machine_info": {"node": "secret-host"},
        "commit_info": {"id": "abc", "dirty": True, "project": "main", "branch": "secret"},
        "datetime": "2026-11-23T11:00:00+00:00",
        "benchmarks": [
            {
                "name": "test[a]", "fullname": "/home/secret/test[a]", "group": "g", "params": {},
                "extra_info": {"kernel": "toy", "contender": "geomkit", "n": 3}, "stats": {"data": [0.25, 1 / 3, 0.5]},
            }
        ],
    }  # fmt: skip
    kept = regressions.reduced(report, MACHINE)
    assert "secret" not in json.dumps(kept)
    assert kept["benchmarks"][0] == {
        "name": "test[a]", "group": "g", "kernel": "toy", "contender": "geomkit", "n": 3,
        "median": 0.3333, "seconds": [0.25, 0.3333, 0.5],
    }  # fmt: skip
    assert kept["commit"] == {"id": "abc", "dirty": True}


def test_the_command_prints_a_table(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(file()))
    other = file(scale={"test[geomkit-50]": 2.0}, machine=MACHINE | {"cores": 4})
    other["benchmarks"].append(other["benchmarks"][0] | {"name": "test[new]"})
    new.write_text(json.dumps(other))

    assert command.main(["compare", str(old), str(new)]) == 0

    out = capsys.readouterr().out
    assert "differ in cores: 2 and 4" in out
    assert "slower" in next(line for line in out.splitlines() if "geomkit-50" in line)
    assert "only in NEW: test[new]" in out
    assert "drift" in out


def test_other_files_and_other_sizes_are_refused(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(file()))
    changed = file()
    changed["benchmarks"][0]["n"] = 99
    new.write_text(json.dumps(changed))
    assert command.main(["compare", str(old), str(new)]) == 2
    assert "differs in n" in capsys.readouterr().err
    new.write_text("{}")
    assert command.main(["compare", str(old), str(new)]) == 2
    assert "make bench" in capsys.readouterr().err
    assert command.main(["compare", str(old), str(tmp_path / "none.json")]) == 2
