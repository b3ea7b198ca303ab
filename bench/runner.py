"""Runs a study once for each state of code and settings, and writes down what made its files."""

import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomkit.errors import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent

_VERSIONS = (
    "numpy",
    "scipy",
    "numba",
    "torch",
    "faiss-cpu",
    "scikit-learn",
    "gensim",
    "transformers",
    "pandas",
    "matplotlib",
)


@dataclass(frozen=True, slots=True)
class Study:
    """A question, and the function that answers it with files."""

    name: str
    about: str
    run: Callable[["Context"], None]
    reads: tuple[str, ...] = ()
    """Files of other studies that it reads."""
    draw: Callable[["Context"], None] | None = None
    """Draws its figures from its tables alone, so that a change of a figure measures nothing again."""
    needs: Callable[[], None] = lambda: None
    """Raises BackendUnavailableError where this machine lacks what not every machine has, such as a GPU."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a study is run with, and where it leaves its files."""

    study: str
    out: Path
    quick: bool
    everything: bool
    """Attempt optional sources that are not cached."""
    seed: int
    files: list[Path]
    """What has been written so far."""

    def say(self, message: str) -> None:
        """Tell the person at the terminal."""
        print(f"{self.study}: {message}", file=sys.stderr, flush=True)

    def table(self, name: str, frame: "pd.DataFrame") -> None:
        """Write a table as CSV, floats to seven significant digits."""
        with self._file(name) as path:
            frame.to_csv(path, index=False, float_format="%.7g", lineterminator="\n")

    def read(self, name: str) -> "pd.DataFrame":
        """Read a table that was written before."""
        import pandas as pd

        if not (self.out / name).is_file():
            msg = f"there is no {name} in {self.out}; run the study that writes it first"
            raise InvalidInputError(msg)
        return pd.read_csv(self.out / name)

    def text(self, name: str, text: str) -> None:
        """Write a text file."""
        with self._file(name) as path:
            path.write_text(text, encoding="utf-8")

    def figure(self, name: str, figure: "Figure") -> None:
        """Write a figure as SVG and PNG."""
        from matplotlib import pyplot as plt

        from geomkit.report.figures import save

        for suffix in ("svg", "png"):
            with self._file(f"{name}.{suffix}") as path:
                save(figure, path, suffix)
        plt.close(figure)

    @contextmanager
    def _file(self, name: str) -> Iterator[Path]:
        """Give a temporary name beside the final one, and rename it when it is complete."""
        final = self.out / name
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}.{os.getpid()}.part")
        try:
            yield temporary
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
        self.files.append(final)


def run(study: Study, context: Context, *, force: bool = False) -> bool:
    """Run a study unless its files are those that this code and these settings would write.

    Returns
    -------
    bool
        Whether it ran.
    """
    stamp = context.out / ".stamps" / f"{study.name}.json"
    missing = [name for name in study.reads if not (context.out / name).is_file()]
    if missing:
        msg = f"study {study.name} reads {', '.join(missing)} in {context.out}; run the study that writes it first"
        raise InvalidInputError(msg)
    key = _key(study, context)
    if not force and _is_current(stamp, key, context.out):
        context.say("up to date")
        return False
    context.say(study.about)
    start = time.perf_counter()
    answer(study, context)
    seconds = time.perf_counter() - start
    context.text(f"{study.name}.provenance.json", json.dumps(_provenance(context, seconds), indent=2) + "\n")
    stamp.parent.mkdir(parents=True, exist_ok=True)
    files = {str(path.relative_to(context.out)): _sha256(path) for path in context.files}
    part = stamp.with_suffix(".part")
    part.write_text(json.dumps({"key": key, "files": files}, indent=2))
    part.replace(stamp)
    context.say(f"{len(files)} files in {seconds:.0f} s")
    return True


def answer(study: Study, context: Context) -> None:
    """Write the tables of a study, and its figures from them."""
    study.run(context)
    if study.draw is not None:
        study.draw(context)


def redraw(study: Study, context: Context) -> None:
    """Draw the figures of a study from the tables that are there, and note in its provenance that this was done."""
    from geomkit import __version__

    if study.draw is None:
        msg = f"study {study.name} draws no figures"
        raise InvalidInputError(msg)
    provenance = f"{study.name}.provenance.json"
    if not (context.out / provenance).is_file():
        msg = f"there is no {provenance} in {context.out}; run the study first"
        raise InvalidInputError(msg)
    study.draw(context)
    known = json.loads((context.out / provenance).read_text())
    figures = sorted(str(path.relative_to(context.out)) for path in context.files)
    known["figures_drawn"] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "versions": {"geomkit": __version__, "matplotlib": importlib.metadata.version("matplotlib")},
        "files": figures,
    }
    known["files"] = sorted({*known["files"], *figures})
    context.text(provenance, json.dumps(known, indent=2) + "\n")
    context.say(f"{len(figures)} figures drawn from its tables")


def _is_current(stamp: Path, key: str, out: Path) -> bool:
    try:
        known = json.loads(stamp.read_text())
        files = known["files"].items()
        return known["key"] == key and all(_sha256(out / name) == digest for name, digest in files)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _key(study: Study, context: Context) -> str:
    """Everything that the files depend on: code, pins, settings, and which optional data is here."""
    from geomkit.sources.catalogue import PACKAGES
    from geomkit.sources.fetch import is_cached

    digest = hashlib.sha256()
    code = [path for folder in ("geomkit", "bench") for path in sorted((ROOT / folder).rglob("*.py"))]
    styles = sorted(path for kind in ("mplstyle", "css", "js", "j2") for path in (ROOT / "geomkit").rglob(f"*.{kind}"))
    for path in [*code, *styles, ROOT / "constraints.txt"]:
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    here = sorted(name for name, package in PACKAGES.items() if not package.core and is_cached(package))
    read = [_sha256(context.out / name) for name in study.reads]
    settings = (read, context.study, context.quick, context.everything, context.seed, here, platform.python_version())
    digest.update(repr(settings).encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _provenance(context: Context, seconds: float) -> dict[str, Any]:
    from geomkit import __version__
    from geomkit.threads import processors

    options = [name for name, on in (("--quick", context.quick), ("--all", context.everything)) if on]
    versions = {"geomkit": __version__, "python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in _VERSIONS}
    return {
        "command": " ".join(["python -m bench", context.study, *options, f"--seed {context.seed}"]),
        "seconds": round(seconds, 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": processor(),
        "cores": processors(),
        "versions": versions,
        "files": sorted(str(path.relative_to(context.out)) for path in context.files),
    }


def processor() -> dict[str, Any]:
    """Model and vector extensions of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = set(fields.get("flags", "").split())
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {"model": fields.get("model name", platform.processor()), "extensions": [f for f in known if f in flags]}
