"""Options for rows in many files, many workers, and runs that can be resumed."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from geomkit.cli.bars import watching
from geomkit.cli.options import NO_PARTS, opened, say_read
from geomkit.core.progress import Watch
from geomkit.errors import InvalidInputError

Workers = Annotated[
    int | None, typer.Option(help="Share the work out to so many processes on this machine.", metavar="N")
]
Scheduler = Annotated[
    str | None, typer.Option(help="Share the work out to the workers of a Dask scheduler.", metavar="ADDRESS")
]
Run = Annotated[
    Path | None, typer.Option("--run", help="Keep partial results there; the same command goes on.", metavar="FOLDER")
]
MaxMemory = Annotated[
    str | None, typer.Option(help="Room for prepared rows in each process: 4GiB, 500MB, …", metavar="SIZE")
]

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{letter}B": 1000**k for k, letter in enumerate("KMGT", 1)}
_UNITS |= {f"{letter}iB": 1024**k for k, letter in enumerate("KMGT", 1)}


@contextmanager
def at_hand(
    source: str,
    n: int | None,
    seed: int,
    *,
    workers: int | None,
    scheduler: str | None,
    run: Path | None,
    max_memory: str | None,
    parts: Mapping[str, Any] = NO_PARTS,
    labels: str | None = None,
) -> Iterator[Any]:
    """Open what INPUT names, and whoever is to measure it: something with `vectors` and `labels`.

    Raises
    ------
    InvalidInputError
        Options do not go together, or INPUT cannot be opened.
    """
    room = None if max_memory is None else size(max_memory)
    if workers is not None and scheduler is not None:
        msg = f"--workers starts a cluster and --scheduler names one; give one of them, got {workers} and {scheduler}"
        raise InvalidInputError(msg)
    spread = workers is not None or scheduler is not None or run is not None
    if not (spread or room is not None or _is_many(source)):
        yield opened(source, n, seed, parts=parts, labels=labels)
        return
    from geomkit.io.files import Opened
    from geomkit.io.shards.shards import open_shards

    if labels is not None:
        msg = f"--labels of rows in many files, or measured at scale, must be a text file; got {labels}"
        raise InvalidInputError(msg)
    where: Any = source
    is_file = not (_is_many(source) or _is_shard(source))
    if is_file:
        whole = opened(source, n, seed, parts=parts)
        where = whole.vectors
    elif n is not None:
        msg = f"--n is for sources; all rows of {source} are measured"
        raise InvalidInputError(msg)
    elif other := [name for name in ("id", "encoding", "bits") if name in parts]:
        msg = f"--{other[0]} is for one file; {source} is read as rows in many files, or at scale"
        raise InvalidInputError(msg)
    shards = open_shards(where, max_memory=room, **({} if is_file else parts))
    if not is_file:
        say_read(Path(source).name, shards.note)
    told = (whole.note, whole.columns, whole.left_out) if is_file and isinstance(whole, Opened) else ()
    read = told or (shards.note, shards.columns, shards.left_out)
    if not spread:
        yield Opened(shards, None, None, "shards", *read)
        return
    from geomkit.distributed.api import distribute
    from geomkit.distributed.executors import connected, local_cluster

    with ExitStack() as stack:
        client = None
        _quiet()
        if scheduler is not None:
            client = stack.enter_context(connected(scheduler))
        elif workers is not None:
            client = stack.enter_context(local_cluster(workers))
        if client is not None and client.dashboard_link:
            typer.echo(f"geomkit: dashboard at {client.dashboard_link}", err=True)
        x = stack.enter_context(distribute(shards, client=client, checkpoint_dir=run, progress=_of_tasks(watching())))
        yield Opened(x, None, None, "shards", *read)


def size(text: str) -> int:
    """Bytes that a text such as ``4GiB`` or ``500MB`` means.

    Raises
    ------
    InvalidInputError
        It is no such text, or less than a byte.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2] not in _UNITS or float(found[1]) * _UNITS[found[2]] < 1:
        msg = f"--max-memory must be a number of bytes, or a size such as 500MB or 4GiB; got {text!r}"
        raise InvalidInputError(msg)
    return int(float(found[1]) * _UNITS[found[2]])


def _is_many(source: str) -> bool:
    """Whether INPUT is a folder, a glob or an address; brackets in the name of a file that exists make no glob."""
    path = Path(source)
    return "://" in source or path.is_dir() or (any(sign in source for sign in "*?[") and not path.exists())


def _is_shard(source: str) -> bool:
    return Path(source).suffix.lower() in {".npy", ".parquet", ".pq", ".arrow", ".feather", ".ipc"}


def _quiet() -> None:
    """Let Dask say nothing of its comings and goings, here and in workers; its errors come to us."""
    try:
        import dask

        # Read when `distributed` is imported, which sets up loggers of its own.
        dask.config.set(logging={"distributed": "critical", "distributed.client": "critical"})
        import distributed
    except ImportError:
        # Who needs it says so.
        return
    logging.getLogger(distributed.__name__).setLevel(logging.CRITICAL)


def _of_tasks(watch: Watch | None) -> Watch | None:
    """Say that what is counted are tasks: a cluster tells of those, and not of pairs or rows."""
    return None if watch is None else lambda what, done, of: watch(f"tasks of {what}", done, of)
