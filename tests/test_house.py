"""The rules of the house: who imports whom, how long a module is, and what `import geomkit` costs."""

import ast
import functools
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import geomkit
from geomkit import errors

ROOT = Path(__file__).parents[1]
MODULES = sorted([*ROOT.glob("geomkit/**/*.py"), *ROOT.glob("bench/**/*.py")])
TESTS = sorted(ROOT.glob("tests/**/*.py"))

ALLOWED = {
    "geomkit": {"geomkit"},
    "geomkit.__main__": {"geomkit.cli"},
    "geomkit.errors": set(),
    "geomkit.stored": {"geomkit.crew"},
    "geomkit.arrays": {"geomkit.errors", "geomkit.stored"},
    "geomkit.memory": {"geomkit.arrays"},
    "geomkit.crew": {"geomkit.arrays", "geomkit.batches", "geomkit.kernels =", "geomkit.tiles"},
    "geomkit.blocks": {"geomkit.arrays", "geomkit.crew", "geomkit.kernels ="},
    "geomkit.panels": {"geomkit.blocks", "geomkit.kernels =", "geomkit.rows", "geomkit.scores", "geomkit.tiles"},
    "geomkit.kernels": {"geomkit.errors"},
    "geomkit.kernels.*": {"geomkit.kernels"},
    "geomkit.threads": set(),
    "geomkit.devices": {"geomkit.arrays", "geomkit.errors", "geomkit.kernels ="},
    "geomkit.streams": set(),
    "geomkit.progress": set(),
    "geomkit.writing": {"geomkit.errors"},
    "geomkit.rows": {
        "geomkit.arrays",
        "geomkit.blocks",
        "geomkit.devices",
        "geomkit.memory",
        "geomkit.threads",
        "geomkit.kernels =",
        "geomkit.errors",
    },
    "geomkit.squares": {"geomkit.blocks", "geomkit.rows", "geomkit.kernels ="},
    "geomkit.scores": {
        "geomkit.arrays",
        "geomkit.blocks",
        "geomkit.devices",
        "geomkit.errors",
        "geomkit.rows",
        "geomkit.kernels =",
    },
    "geomkit.reducers": {"geomkit.kernels =", "geomkit.errors"},
    "geomkit.nearest": {"geomkit.kernels ="},
    "geomkit.tiles": {"geomkit.devices", "geomkit.rows", "geomkit.scores", "geomkit.kernels ="},
    "geomkit.device_sweep": {f"geomkit.{each}" for each in ("devices", "errors", "progress", "streams", "tiles")},
    "geomkit.pairs": {
        "geomkit.device_sweep",
        "geomkit.panels",
        "geomkit.progress",
        "geomkit.rows",
        "geomkit.threads",
        "geomkit.tiles",
        "geomkit.kernels =",
    },
    "geomkit.exact": {
        "geomkit.arrays",
        "geomkit.blocks",
        "geomkit.devices",
        "geomkit.rows",
        "geomkit.scores",
        "geomkit.kernels =",
    },
    "geomkit.cross": {"geomkit.arrays", "geomkit.blocks", "geomkit.rows", "geomkit.scores", "geomkit.kernels ="},
    "geomkit.cross_exact": {
        "geomkit.arrays",
        "geomkit.blocks",
        "geomkit.cross",
        "geomkit.rows",
        "geomkit.scores",
        "geomkit.kernels =",
    },
    "geomkit.scatter": {"geomkit.kernels =", "geomkit.kernels.cpu_rows"},
    "geomkit.batches": {"geomkit.arrays", "geomkit.scatter", "geomkit.kernels =", "geomkit.kernels.cpu_rows"},
    "geomkit.gather": {
        "geomkit.arrays",
        "geomkit.progress",
        "geomkit.threads",
        "geomkit.batches",
        "geomkit.kernels =",
        "geomkit.kernels.cpu_rows",
    },
    "geomkit.influence": {
        "geomkit.arrays",
        "geomkit.gather",
        "geomkit.batches",
        "geomkit.scatter",
        "geomkit.kernels =",
    },
    "geomkit.wide": {
        "geomkit.arrays",
        "geomkit.batches",
        "geomkit.gather",
        "geomkit.influence",
        "geomkit.scatter",
        "geomkit.kernels =",
    },
    "geomkit.nulls": {"geomkit.errors"},
    "geomkit.stats": set(),
    "geomkit.stats.*": {
        "geomkit.arrays",
        "geomkit.blocks",
        "geomkit.rows",
        "geomkit.scores",
        "geomkit.nearest",
        "geomkit.reducers",
        "geomkit.threads",
        "geomkit.devices",
        "geomkit.squares",
        "geomkit.tiles",
        "geomkit.pairs",
        "geomkit.exact",
        "geomkit.cross",
        "geomkit.cross_exact",
        "geomkit.scatter",
        "geomkit.batches",
        "geomkit.gather",
        "geomkit.influence",
        "geomkit.wide",
        "geomkit.kernels =",
        "geomkit.nulls",
        "geomkit.errors",
        "geomkit.stats",
    },
    "geomkit.files": {"geomkit.arrays", "geomkit.errors", "geomkit.files"},
    "geomkit.files.*": {"geomkit.arrays", "geomkit.errors", "geomkit.files"},
    "geomkit.transforms": {"geomkit.transforms"},
    "geomkit.transforms.*": {
        "geomkit =",
        "geomkit.arrays",
        "geomkit.blocks",
        "geomkit.errors",
        "geomkit.rows",
        "geomkit.transforms",
    },
    "geomkit.auditing": set(),
    "geomkit.auditing.*": {
        "geomkit =",
        "geomkit.arrays",
        "geomkit.auditing",
        "geomkit.devices",
        "geomkit.errors",
        "geomkit.nulls",
        "geomkit.pairs",
        "geomkit.scores",
        "geomkit.sources.cache",
        "geomkit.stats",
        "geomkit.stored",
        "geomkit.tiles",
        "geomkit.transforms",
    },
    "geomkit.sources": {"geomkit.arrays", "geomkit.errors", "geomkit.sources"},
    "geomkit.sources.*": {"geomkit.arrays", "geomkit.errors", "geomkit.sources"},
    "geomkit.scale": set(),
    "geomkit.scale.*": {
        "geomkit =",
        "geomkit.arrays",
        "geomkit.batches",
        "geomkit.blocks",
        "geomkit.crew",
        "geomkit.errors",
        "geomkit.files",
        "geomkit.gather",
        "geomkit.kernels =",
        "geomkit.memory",
        "geomkit.nearest",
        "geomkit.pairs",
        "geomkit.panels",
        "geomkit.reducers",
        "geomkit.scale",
        "geomkit.scores",
        "geomkit.stats",
        "geomkit.stored",
        "geomkit.threads",
        "geomkit.tiles",
    },
    "geomkit.meaning": set(),
    "geomkit.meaning.*": {
        "geomkit =",
        "geomkit.arrays",
        "geomkit.errors",
        "geomkit.meaning",
        "geomkit.sources",
        "geomkit.stats",
        "geomkit.threads",
    },
    "geomkit.report": {"geomkit.errors", "geomkit.report"},
    "geomkit.report.*": {"geomkit.errors", "geomkit.nulls", "geomkit.report"},
    "geomkit.report.html.*": {
        "geomkit =",
        "geomkit.auditing",
        "geomkit.errors",
        "geomkit.nulls",
        "geomkit.report",
        "geomkit.writing",
    },
    "geomkit.atlas": {"geomkit.arrays", "geomkit.errors", "geomkit.stats", "geomkit.writing"},
    "geomkit.warming": {"geomkit.arrays", "geomkit.kernels", "geomkit.stats"},
    "geomkit.cli": {"geomkit"},
    "geomkit.cli.*": {"geomkit"},
    "bench": {"geomkit", "bench"},
    "bench.*": {"geomkit", "bench"},
}
"""What a module may import of ours: the module named and all below it, or with ``=`` that module alone."""

HEAVY = [
    *("numba", "torch", "triton", "faiss", "matplotlib", "dask", "pandas", "scipy.stats"),
    *("sklearn", "pyarrow", "h5py", "fsspec", "zarr", "distributed"),
]


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def rule(name):
    if name in ALLOWED:
        return ALLOWED[name]
    found = [key for key in ALLOWED if key.endswith(".*") and name.startswith(key[:-1])]
    assert found, f"{name} has no rule in ALLOWED"
    return ALLOWED[max(found, key=len)]


@functools.cache
def is_module(name):
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.is_dir()


def imports(tree, *, top_only=False):
    """Dotted names of what a module imports, the names of a ``from`` import included where they are modules."""
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if node.module.split(".")[0] in {"geomkit", "bench"} and is_module(inner) else node.module


def permitted(name, allowed):
    for each in allowed:
        if each.endswith("="):
            if name == each[:-2]:
                return True
        elif name == each or name.startswith(f"{each}."):
            return True
    return False


@functools.cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf8"))


def forbidden(path):
    """What a module imports of ours although no rule lets it."""
    name = dotted(path)
    ours = {each for each in imports(parsed(path)) if each.split(".")[0] in {"geomkit", "bench"}}
    return [f"{name} may not import {each}" for each in sorted(ours) if not permitted(each, rule(name))]


def test_imports_follow_the_rules():
    assert [each for path in MODULES for each in forbidden(path)] == []


def test_the_rules_themselves_refuse():
    assert not permitted("geomkit.kernels.cpu", ALLOWED["geomkit.rows"])
    assert permitted("geomkit.kernels", ALLOWED["geomkit.rows"])
    assert not permitted("bench", ALLOWED["geomkit.cli"])
    assert list(imports(ast.parse("from geomkit.kernels import cpu, Backend"))) == [
        "geomkit.kernels.cpu",
        "geomkit.kernels",
    ]
    with pytest.raises(AssertionError, match="relative"):
        list(imports(ast.parse("from . import cpu")))


def test_modules_are_short_and_not_catch_alls():
    every = [*MODULES, *TESTS]
    lengths = {dotted(path): len(path.read_text(encoding="utf8").splitlines()) for path in every}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
    catch_alls = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [dotted(path) for path in every if path.stem.strip("_") in catch_alls] == []


def importers(library, *, top_only=False):
    return {
        dotted(path)
        for path in ROOT.glob("geomkit/**/*.py")
        if any(each.split(".")[0] == library for each in imports(parsed(path), top_only=top_only))
    }


def test_only_the_cpu_kernels_import_numba():
    assert {name.startswith("geomkit.kernels.cpu") for name in importers("numba")} == {True}


def test_only_the_triton_kernels_import_triton():
    assert {name.startswith("geomkit.kernels.triton_") for name in importers("triton")} == {True}


def test_only_the_torch_kernels_need_torch_among_the_kernels():
    kernels = {name for name in importers("torch", top_only=True) if name.startswith("geomkit.kernels")}
    assert {name.startswith(("geomkit.kernels.torch_", "geomkit.kernels.triton_")) for name in kernels} == {True}
    outside = {name for name in importers("torch", top_only=True) if not name.startswith("geomkit.sources")}
    assert outside == kernels


def python(code, **how):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120, **how
    ).stdout


def test_importing_geomkit_loads_nothing_heavy():
    loaded = python(f"import sys, geomkit; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded.strip() == "[]"


def test_a_first_use_loads_what_it_needs():
    code = "import sys, geomkit; geomkit.nulls.sphere(3); geomkit.cosine_stats; print('numba' in sys.modules)"
    assert python(code).strip() == "False"
    code = (
        "import sys, geomkit; geomkit.cosine_stats([[1], [2]]); print([x in sys.modules for x in ('numba', 'torch')])"
    )
    assert python(code).strip() == "[True, False]"


def test_importing_geomkit_loads_few_modules():
    bare, ours = (set(python(f"import sys{code}; print(*sys.modules)").split()) for code in ("", ", geomkit"))
    # One of ours and some thirty of Python's, which take a few hundredths of a second.
    loaded = sorted(ours - bare)
    assert [name for name in loaded if name.startswith("geomkit")] == ["geomkit"]
    assert len(loaded) < 60, loaded


def test_the_names_of_the_package():
    for name in geomkit.__all__:
        assert getattr(geomkit, name) is not None
    assert dir(geomkit) == sorted(geomkit.__all__)
    with pytest.raises(AttributeError, match="module 'geomkit' has no attribute 'nothing'"):
        geomkit.nothing  # noqa: B018
    hinted = {
        alias.asname
        for node in ast.walk(parsed(ROOT / "geomkit/__init__.py"))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert hinted | {"errors", "__version__"} == set(geomkit.__all__)


def test_every_error_is_ours_and_one_of_pythons():
    kinds = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, Exception)]
    raised = [each for each in kinds if not issubclass(each, Warning) and each is not errors.GeomkitError]
    assert len(raised) >= 5
    for kind in raised:
        assert issubclass(kind, errors.GeomkitError)
        assert issubclass(kind, (ValueError, RuntimeError, LookupError))


def public(module):
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    for name in names:
        value = getattr(module, name)
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("geomkit"):
            yield f"{module.__name__}.{name}", value
            if inspect.isclass(value) and value.__module__ == module.__name__:
                for inner, member in vars(value).items():
                    if not inner.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                        yield f"{module.__name__}.{name}.{inner}", member


def test_every_public_name_has_a_docstring():
    seen = 0
    for info in pkgutil.walk_packages(geomkit.__path__, "geomkit."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        assert module.__doc__, f"{info.name} has no docstring"
        for name, value in public(module):
            seen += 1
            assert inspect.getdoc(value), f"{name} has no docstring"
    assert seen > 100
