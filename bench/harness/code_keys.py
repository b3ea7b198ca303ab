"""Digests of the code that a function reaches: what a measurement depends on, and nothing else.

A module is read as a set of definitions (functions, classes, constants). From a function the references of its syntax
tree are followed to other definitions of the project, through imports, lazy names and the table of kernels. Comments,
docstrings and annotations do not count. What draws, prints, fetches or caches does not change a number and is not
followed: see `CUT`.
"""

import ast
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geomkit.datasets.catalogue import PACKAGES
from geomkit.kernels import KERNELS, Backend

__all__ = ["CUT", "Closure", "Code"]

ROOT = Path(__file__).resolve().parents[2]

DRAWING = ("bench.figures", "bench.pages", "geomkit.reporting")
"""Packages that draw what was measured."""

CUT = (
    *DRAWING,
    "bench.harness",
    "geomkit.cli",
    "geomkit.core.atomic",
    "geomkit.core.cache",
    "geomkit.core.optional",
    "geomkit.core.progress",
    "geomkit.core.result",
    "geomkit.datasets.catalogue",
    "geomkit.datasets.fetch",
    "geomkit.errors",
    "geomkit.kernels.cpu_cache",
)
"""Modules, with all inside them, that decide how something is kept, said or shown, and no number."""

_ASSETS = ("geomkit/**/*.mplstyle", "geomkit/**/*.css", "geomkit/**/*.js", "geomkit/**/*.j2", "bench/**/*.md")
"""What figures and pages are made with beside code."""

_TABLES = {("geomkit.datasets", "SOURCES"), ("geomkit.kernels", "KERNELS"), ("geomkit.kernels", "BACKENDS")}
"""Tables of which a caller uses a row or two: sources are followed by the units that read them, kernels by name."""

_KERNELS = "geomkit.kernels"
_BACKEND = "geomkit.kernels.cpu"

_HANDED_ON = "a kernel whose name is handed on"

Symbol = tuple[str, str]
"""A module, and a definition in it; an empty name stands for what the module runs when it is imported."""


@dataclass(frozen=True, slots=True)
class Closure:
    """What a function reaches."""

    modules: dict[str, str]
    """Digest of the definitions that are reached, by module."""
    packages: tuple[str, ...]
    """Packages of the catalogue that the code names."""
    symbols: frozenset[Symbol] = frozenset()
    """The definitions themselves."""


@dataclass
class _Module:
    """The definitions of one module, and what its names are imported from."""

    definitions: dict[str, list[ast.AST]] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """Local name: a module, and a name in it, or None where it is the module itself."""
    lazy: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    """Names that ``__getattr__`` imports when they are first used."""


class Code:
    """The code of the project, each module read once.

    Parameters
    ----------
    root : Path
        The folder that holds the packages ``geomkit`` and ``bench``.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._modules: dict[str, _Module | None] = {}
        self._edges: dict[Symbol, tuple[str, frozenset[Symbol], frozenset[str]]] = {}
        self._closures: dict[tuple[frozenset[Symbol], tuple[str, ...]], Closure] = {}

    @functools.cached_property
    def assets(self) -> str:
        """Digest of the style sheets, scripts and templates of figures and pages."""
        digest = hashlib.sha256()
        for path in sorted(path for pattern in _ASSETS for path in self._root.glob(pattern)):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()[:16]

    def closure_of(self, functions: Iterable[Callable[..., Any]]) -> Closure:
        """Return what functions that measure reach.

        Partials are followed to their function and to the functions among their arguments.
        """
        return self.closure(_roots(functions), CUT)

    def drawing_of(self, functions: Iterable[Callable[..., Any]]) -> dict[str, str]:
        """Return digests of what functions that draw or conclude reach, by module; what draws is followed too."""
        kept = tuple(name for name in CUT if name not in DRAWING)
        return self.closure(_roots(functions), kept).modules

    def drawing_key(self, function: Callable[..., Any]) -> str:
        """Return what identifies the code and the style sheets that a function draws with."""
        parts = json.dumps([self.drawing_of([function]), self.assets], sort_keys=True)
        return hashlib.sha256(parts.encode()).hexdigest()[:16]

    def closure(self, roots: Iterable[Symbol], cut: tuple[str, ...] = CUT) -> Closure:
        """Follow definitions from `roots` on, but for modules that are `cut`.

        Raises
        ------
        LookupError
            A root is not defined where it is said to be.
        """
        asked = frozenset(roots)
        if (asked, cut) not in self._closures:
            self._closures[asked, cut] = self._followed(asked, cut)
        return self._closures[asked, cut]

    def _followed(self, roots: frozenset[Symbol], cut: tuple[str, ...]) -> Closure:
        waiting, seen = list(roots), set[Symbol]()
        for module, name in waiting:
            if self._resolve(module, name) != (module, name):
                msg = f"{module} defines no {name}"
                raise LookupError(msg)
        digests: dict[str, list[str]] = {}
        texts = set[str]()
        while waiting or (waiting := [each for each in self._chosen(texts) if each not in seen]):
            symbol = waiting.pop()
            if symbol in seen or symbol in _TABLES or _is_cut(symbol[0], cut):
                continue
            seen.add(symbol)
            digest, edges, named = self._read(symbol)
            digests.setdefault(symbol[0], []).append(f"{symbol[1]}={digest}")
            texts |= named
            # A module that is reached at all runs the statements that define nothing, such as a loop.
            waiting += [*(edges - seen), (symbol[0], "")]
        modules = {
            module: hashlib.sha256("\n".join(sorted(each)).encode()).hexdigest()[:16]
            for module, each in sorted(digests.items())
        }
        return Closure(modules, tuple(sorted(texts & set(PACKAGES))), frozenset(seen))

    def _chosen(self, texts: set[str]) -> Iterator[Symbol]:
        """Follow the kernels that code names somewhere, where one is loaded by a name that is handed on."""
        if _HANDED_ON in texts:
            for name in sorted(texts):
                yield from self._kernel(name)
                yield from self._kernel(f"sparse_{name}")

    def _module(self, name: str) -> _Module | None:
        """Read a module of the project; None where there is none of that name."""
        if name not in self._modules:
            path = self._root.joinpath(*name.split("."))
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            self._modules[name] = _parsed(file) if file.is_file() else None
        return self._modules[name]

    def _resolve(self, module: str, name: str) -> Symbol | None:
        """Find where a name of a module is defined; a module itself is that name with an empty definition."""
        for _ in range(20):
            found = self._module(module)
            if found is None:
                return None
            if name in found.definitions or not name:
                return module, name
            target = found.imports.get(name) or found.lazy.get(name)
            if target is None:
                inner = f"{module}.{name}"
                return (inner, "*") if self._module(inner) is not None else None
            if target[1] is None:
                return (target[0], "*") if self._module(target[0]) is not None else None
            module, name = target[0], target[1]
        return None

    def _read(self, symbol: Symbol) -> tuple[str, frozenset[Symbol], frozenset[str]]:
        """Digest of a definition, the definitions that it refers to, and the packages and kernels that it names."""
        if symbol not in self._edges:
            module, name = symbol
            found = self._module(module)
            assert found is not None
            if name == "*":
                edges = {(module, each) for each in found.definitions}
                self._edges[symbol] = "", frozenset(edges), frozenset()
            else:
                nodes = found.definitions.get(name, [])
                digest = hashlib.sha256("\n".join(ast.dump(node) for node in nodes).encode()).hexdigest()
                edges, named = set[Symbol](), set[str]()
                for node in nodes:
                    edges |= set(self._references(module, node))
                    named |= _texts(node) & set(PACKAGES)
                    # A name that another is compared with chooses no kernel.
                    named |= _texts(node, compared=False) & set(KERNELS)
                    named |= {_HANDED_ON} if self._hands_on(module, node) else set()
                self._edges[symbol] = digest, frozenset(edges), frozenset(named)
        return self._edges[symbol]

    def _references(self, module: str, node: ast.AST) -> Iterator[Symbol]:
        """Every definition of the project that a syntax tree names."""
        local = dict(_imports(node))
        uses_backend = False
        waiting: list[ast.AST] = [node]
        while waiting:
            each = waiting.pop()
            if isinstance(each, ast.Attribute):
                chain, base = _chain(each)
                if isinstance(base, ast.Name):
                    yield from self._chained(module, local, base.id, chain)
                else:
                    waiting.append(base)
                continue
            if isinstance(each, ast.Name):
                yield from self._chained(module, local, each.id, [])
            elif isinstance(each, ast.Call):
                target = next(iter(self._called(module, local, each.func)), None)
                if target == (_KERNELS, "load"):
                    yield from self._kernels(each)
                uses_backend |= target == (_KERNELS, "module")
            waiting += ast.iter_child_nodes(each)
        if uses_backend:
            # What is asked of a backend's module beside its kernels, such as its memory.
            for name in {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}:
                found = self._resolve(_BACKEND, name)
                if found is not None:
                    yield found

    def _called(self, module: str, local: dict[str, tuple[str, str | None]], function: ast.expr) -> Iterator[Symbol]:
        chain, base = _chain(function) if isinstance(function, ast.Attribute) else ([], function)
        if isinstance(base, ast.Name):
            yield from self._chained(module, local, base.id, chain)

    def _chained(
        self, module: str, local: dict[str, tuple[str, str | None]], name: str, chain: list[str]
    ) -> Iterator[Symbol]:
        """Follow ``name.chain…``: through modules as far as these go, then to the definition."""
        if name in local:
            where, what = local[name]
            found = (where, "*") if what is None else self._resolve(where, what)
            found = found if found and self._module(found[0]) is not None else None
        else:
            found = self._resolve(module, name)
        for each in chain:
            if found is None or found[1] != "*":
                break
            found = self._resolve(found[0], each)
        if found is not None:
            yield found

    def _hands_on(self, module: str, node: ast.AST) -> bool:
        """Say whether a kernel is loaded by a name that is not written where it is loaded."""
        local = dict(_imports(node))
        calls = (each for each in ast.walk(node) if isinstance(each, ast.Call))
        loads = [each for each in calls if (_KERNELS, "load") in self._called(module, local, each.func)]
        return any(not _texts(each.args[0]) & set(KERNELS) for each in loads)

    def _kernels(self, call: ast.Call) -> Iterator[Symbol]:
        """Follow the kernels whose names a call of `geomkit.kernels.load` holds."""
        for name in sorted(_texts(call.args[0])):
            yield from self._kernel(name)

    def _kernel(self, name: str) -> Iterator[Symbol]:
        if name in KERNELS and Backend.CPU in KERNELS[name]:
            found = self._resolve(*KERNELS[name][Backend.CPU].target.split(":"))
            if found is not None:
                yield found


def _is_cut(module: str, cut: tuple[str, ...]) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in cut)


def _roots(functions: Iterable[Any]) -> Iterator[Symbol]:
    for each in functions:
        if isinstance(each, functools.partial):
            yield from _roots((each.func, *filter(callable, (*each.args, *each.keywords.values()))))
        else:
            # What is defined inside a function is part of that function.
            yield each.__module__, each.__qualname__.split(".")[0]


def _parsed(file: Path) -> _Module:
    tree = _Strip().visit(ast.parse(file.read_text(encoding="utf-8")))
    out = _Module()
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            out.definitions.setdefault(node.name, []).append(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)) or _is_typing(node):
            continue
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)) and (names := list(_targets(node))):
            for name in names:
                out.definitions.setdefault(name, []).append(node)
        elif not _is_text(node):
            out.definitions.setdefault("", []).append(node)
    out.imports = {name: target for node in tree.body if not _is_typing(node) for name, target in _imports(node)}
    if "__getattr__" in out.definitions:
        out.lazy = _lazy(out)
    return out


def _lazy(module: _Module) -> dict[str, tuple[str, str | None]]:
    """Names of a module that its ``__getattr__`` imports: those of its literal tables of names to modules."""
    tables = {
        name: ast.literal_eval(node.value)
        for name in ("_WHERE", "_MODULES")
        for node in module.definitions.get(name, [])
        if isinstance(node, ast.Assign)
    }
    whole = tables.get("_MODULES", ())
    return {name: (where, None if name in whole else name) for name, where in tables.get("_WHERE", {}).items()}


def _imports(node: ast.AST) -> Iterator[tuple[str, tuple[str, str | None]]]:
    """Names that a statement, or anything inside it, imports from the project."""
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            for alias in each.names:
                if alias.asname:
                    yield alias.asname, (alias.name, None)
                else:
                    first = alias.name.split(".")[0]
                    yield first, (first, None)
        elif isinstance(each, ast.ImportFrom) and each.module:
            for alias in each.names:
                yield alias.asname or alias.name, (each.module, alias.name)


def _is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _targets(node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> Iterator[str]:
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))


def _texts(node: ast.AST, *, compared: bool = True) -> set[str]:
    """Strings in a syntax tree, those in comparisons where they are asked for."""
    found, waiting = set[str](), [node]
    while waiting:
        each = waiting.pop()
        if isinstance(each, ast.Constant) and isinstance(each.value, str):
            found.add(each.value)
        elif compared or not isinstance(each, ast.Compare):
            waiting += ast.iter_child_nodes(each)
    return found


def _chain(node: ast.Attribute) -> tuple[list[str], ast.expr]:
    """Names of ``a.b.c`` after the first, and what they are looked up on."""
    names: list[str] = []
    at: ast.expr = node
    while isinstance(at, ast.Attribute):
        names.append(at.attr)
        at = at.value
    return names[::-1], at


class _Strip(ast.NodeTransformer):
    """Take away what does not change what code computes."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [each for each in body if not _is_text(each)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
        return node
