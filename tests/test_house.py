"""The rules of the house: who imports whom, and what `import geomkit` costs."""

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

LAYERS = [
    {"geomkit.errors", "geomkit._version"},
    {"geomkit.kernels"},
    {"geomkit.core"},
    {"geomkit.nulls", "geomkit.pairwise", "geomkit.covariance", "geomkit.io", "geomkit.datasets", "geomkit.transforms"},
    {"geomkit.stats", "geomkit.distributed"},
    {"geomkit.auditing", "geomkit.sampling", "geomkit.interpret", "geomkit.atlas"},
    {"geomkit", "geomkit.reporting"},
    {"geomkit.cli"},
    {"geomkit.__main__"},
    {"bench"},
]
"""Rooms, from the ground up: a module imports from its own room and from lower floors, types included."""

FLOORS = {room: floor for floor, rooms in enumerate(LAYERS) for room in rooms}

HEAVY = [
    *("numba", "torch", "triton", "faiss", "matplotlib", "dask", "pandas", "scipy.stats"),
    *("sklearn", "pyarrow", "h5py", "fsspec", "zarr", "distributed"),
]


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(name):
    """Return the room of a module: a package of geomkit with all inside it, or a module beside them; bench is one."""
    return "bench" if name.split(".")[0] == "bench" else ".".join(name.split(".")[:2])


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


@functools.cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf8"))


@functools.cache
def ours(path):
    """Modules of ours that a module imports, here or inside a function."""
    return frozenset(each for each in imports(parsed(path)) if each.split(".")[0] in {"geomkit", "bench"})


def upward(name, imported):
    """What a module imports although it does not lie on a lower floor."""
    here = room(name)
    return [each for each in sorted(imported) if room(each) != here and FLOORS[room(each)] >= FLOORS[here]]


def circle(arrows):
    """Return some names that import each other in a circle; none where there is no circle."""
    left = {name: set(imported) & set(arrows) - {name} for name, imported in arrows.items()}
    while ground := {name for name, imported in left.items() if not imported}:
        left = {name: imported - ground for name, imported in left.items() if name not in ground}
    return sorted(left)


def test_imports_go_down():
    # The package itself names what is public, of every room, and loads it when it is used.
    wrong = {dotted(path): upward(dotted(path), ours(path)) for path in MODULES if dotted(path) != "geomkit"}
    assert {name: found for name, found in wrong.items() if found} == {}


def test_no_modules_import_each_other_in_a_circle():
    # Studies are listed by their package, which the harness reads.
    assert circle({dotted(path): ours(path) for path in MODULES if dotted(path) != "geomkit"}) == []


def test_the_rules_themselves_refuse():
    assert upward("geomkit.pairwise.tiles", ["geomkit.core.matrix", "geomkit.pairwise.scores"]) == []
    assert upward("geomkit.pairwise.tiles", ["geomkit.stats.cosine"]) == ["geomkit.stats.cosine"]
    assert upward("geomkit.pairwise.tiles", ["geomkit.covariance.scatter"]) == ["geomkit.covariance.scatter"]
    assert upward("geomkit.cli.audits", ["bench"]) == ["bench"]
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == ["a", "b", "c", "d"]
    assert list(imports(ast.parse("from geomkit.kernels import cpu, Backend"))) == [
        "geomkit.kernels.cpu",
        "geomkit.kernels",
    ]
    with pytest.raises(AssertionError, match="relative"):
        list(imports(ast.parse("from . import cpu")))


def test_no_module_is_a_catch_all():
    catch_alls = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [dotted(path) for path in [*MODULES, *TESTS] if path.stem.strip("_") in catch_alls] == []


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
    outside = {name for name in importers("torch", top_only=True) if not name.startswith("geomkit.datasets")}
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
    # Four of ours and some thirty of Python's, which take a few hundredths of a second.
    loaded = sorted(ours - bare)
    assert [name for name in loaded if name.startswith("geomkit")] == [
        "geomkit", "geomkit._version", "geomkit.core", "geomkit.core.deprecated",
    ]  # fmt: skip
    assert len(loaded) < 60, loaded


def test_the_names_of_the_package():
    for name in geomkit.__all__:
        assert getattr(geomkit, name) is not None
    assert dir(geomkit) == sorted([*geomkit.__all__, *geomkit._MODULES])
    with pytest.raises(AttributeError, match="module 'geomkit' has no attribute 'nothing'"):
        geomkit.nothing  # noqa: B018
    hinted = {
        alias.asname
        for node in ast.walk(parsed(ROOT / "geomkit/__init__.py"))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert hinted | {"__version__"} == {*geomkit.__all__, *geomkit._MODULES}


def test_the_package_says_that_it_is_typed():
    # The wheel holds the whole folder.
    assert (ROOT / "geomkit/py.typed").is_file()


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
