"""Commands that read a language model layer by layer: `geomkit lens` and `geomkit tune-lens`."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geomkit.cli import tables
from geomkit.cli.options import AsJson, lines_of
from geomkit.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geomkit.interpret.lens.logit_lens import LogitLens, Reading

app = typer.Typer()

Model = Annotated[
    str | None, typer.Option(help="A hub name or a folder of a causal model; SmolLM2 by default.", metavar="NAME")
]
Layers = Annotated[
    str | None, typer.Option(help="Such as 0,12,24,-1, or all; 0 is the input embedding.", metavar="NUMBERS")
]
DeviceName = Annotated[str | None, typer.Option(help="Where the model runs, such as cuda.", metavar="NAME")]

_CELL = 14  # characters of a cell that a token takes at most


@app.command()
def lens(
    text: Annotated[str, typer.Argument(help="What the model reads.", metavar="TEXT")],
    model: Model = None,
    layers: Layers = None,
    top: Annotated[int, typer.Option(help="Tokens named after the last position; --json: at each.", metavar="K")] = 5,
    tuned: Annotated[Path | None, typer.Option(help="Read through a tuned lens.", metavar="FILE.safetensors")] = None,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Read the beginning of a text that is too long.")
    ] = False,
    device: DeviceName = None,
    as_json: AsJson = False,
) -> None:
    """Print what each layer of a language model would say after each token of a text."""
    _check_text(text)
    wanted = _layers(layers)
    from geomkit.interpret.lens.logit_lens import reading_of
    from geomkit.interpret.lens.tuned_lens import load_tuned_lens

    opened = _lens(model)
    translators = None if tuned is None else load_tuned_lens(tuned, opened)
    found = reading_of(opened, text, wanted, top=top, truncate=truncate, tuned=translators, device=device)
    typer.echo(json.dumps(found.to_dict(), indent=1, ensure_ascii=False) if as_json else table(found))


@app.command("tune-lens")
def tune_lens(
    out: Annotated[Path, typer.Argument(help="Where the tuned lens is written.", metavar="OUT.safetensors")],
    model: Model = None,
    texts: Annotated[
        Path | None, typer.Option(help="A text a line; 200 articles of BBC News by default.", metavar="FILE")
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Such as 6,12,18,24, or all; four between by default.", metavar="NUMBERS")
    ] = None,
    steps: Annotated[int, typer.Option(help="Batches that each translator sees.")] = 100,
    batch: Annotated[int, typer.Option(help="Positions in a batch.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Of Adam at the first step; it falls to 0.")] = 3e-4,
    start: Annotated[str, typer.Option(help="regression, or identity as in the paper.")] = "regression",
    max_tokens: Annotated[int, typer.Option(help="Tokens of each text that are read.")] = 128,
    seed: Annotated[int, typer.Option(help="Holds texts out and shuffles batches.")] = 0,
    device: DeviceName = None,
    as_json: AsJson = False,
) -> None:
    """Train translators for layers, and say by how much KL from the last layer falls on texts held out.

    An interrupted run goes on where it was: its state is beside OUT, and is removed when the lens is written.
    """
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        msg = f"OUT must be a .safetensors file in a folder that exists; got {out}"
        raise InvalidInputError(msg)
    wanted: Sequence[int] | None = _layers(layers)
    import numpy as np

    from geomkit.datasets.states import wanted_layers
    from geomkit.interpret.activations import activations
    from geomkit.interpret.lens.statistics import lens_statistics, rows_of
    from geomkit.interpret.lens.tuned_training import train_tuned_lens

    corpus = _texts(texts, seed)
    opened = _lens(model)
    if wanted is None:
        count = opened.n_layers
        wanted = range(count) if layers == "all" else sorted({count * fifth // 5 for fifth in range(1, 5)})
    chosen = wanted_layers(opened.loaded.model, wanted)
    states = activations(opened.loaded, corpus, (*chosen, -1), max_tokens=max_tokens, device=device)
    rows = rows_of(states, max_tokens, seed)
    held = states.texts[rows] % 5 == 0
    if not held.any() or held.all():
        msg = f"--texts has {len(corpus)} texts; at least 2 are needed, since every fifth is held out"
        raise InvalidInputError(msg)
    state_file = out.with_name(f"{out.stem}.training.safetensors")
    trained = train_tuned_lens(
        opened, states, chosen, rows[~held], steps=steps, batch=batch, learning_rate=learning_rate, start=start,
        seed=seed, state_file=state_file, device=device, progress=_say,
    )  # fmt: skip
    trained.tuned.save(out)
    state_file.unlink(missing_ok=True)
    asked = np.random.default_rng(seed).permutation(np.flatnonzero(held))[:256]
    readers = {"lens": (chosen, opened.logits), "tuned": (chosen, trained.tuned.reader(opened))}
    frame = lens_statistics(opened, states, rows[np.sort(asked)], readers).to_frame()
    kl = {(str(row["reader"]), int(row["layer"])): float(row["kl"]) for row in frame.to_dict("records")}
    if as_json:
        found = [{"layer": layer, "kl_lens": kl["lens", layer], "kl_tuned": kl["tuned", layer]} for layer in chosen]
        typer.echo(json.dumps(found, indent=2))
        return
    lines = [(str(layer), f"{kl['lens', layer]:.3f}", f"{kl['tuned', layer]:.3f}") for layer in chosen]
    title = "KL from the last layer, nats, mean over held-out texts"
    typer.echo(tables.table(("layer", "KL lens", "KL tuned"), lines, title, numbers=(0, 1, 2)))


def table(found: "Reading", width: int | None = None) -> str:
    """Return what each layer says as text: layers x positions, and then the top tokens after the last position.

    Parameters
    ----------
    found : Reading
    width : int, optional
        Characters of a line; the terminal's by default. Positions that do not fit make a table of their own below.
    """
    wide = shutil.get_terminal_size((120, 24)).columns if width is None else width
    heads = [_shown(token) for token in found.tokens]
    cells = [
        [f"{_shown(said[0])} {shares[0]:4.0%}" for said, shares in zip(row, found.top_probabilities[at], strict=True)]
        for at, row in enumerate(found.top_tokens)
    ]
    widths = [max(len(heads[at]), *(len(row[at]) for row in cells)) for at in range(len(heads))]
    lines = [f"{found.reader} of {found.model}: likeliest token after each, by layer"]
    start = 0
    while start < len(heads):
        stop = start + 1
        while stop < len(heads) and 7 + sum(widths[start : stop + 1]) + 2 * (stop + 1 - start) <= wide:
            stop += 1
        part = range(start, stop)
        lines += ["", "  ".join(["layer", *(heads[at].ljust(widths[at]) for at in part)]).rstrip()]
        lines += [
            "  ".join([f"{layer:>5}", *(row[at].ljust(widths[at]) for at in part)]).rstrip()
            for layer, row in zip(found.layers, cells, strict=True)
        ]
        start = stop
    lines += ["", f"after {heads[-1]}; entropy and KL from the last layer in nats", "layer  entropy       KL  tokens"]
    for at, layer in enumerate(found.layers):
        said = zip(found.top_tokens[at][-1], found.top_probabilities[at, -1], strict=True)
        named = "  ".join(f"{_shown(token)} {share:.0%}" for token, share in said)
        entropy, kl = (found.values[name][at, -1] for name in ("entropy", "kl"))
        lines.append(f"{layer:>5}  {entropy:>7.2f}  {kl:>7.2f}  {named}")
    if found.n_truncated:
        lines.append(f"the last {found.n_truncated:,} tokens of the text were not read")
    return "\n".join(lines)


def _shown(token: str) -> str:
    """Return a token on one line, its spaces seen, cut where it is long."""
    plain = json.dumps(token, ensure_ascii=False)[1:-1].replace('\\"', '"').replace(" ", "·")
    return plain if len(plain) <= _CELL else f"{plain[: _CELL - 1]}…"


def _layers(asked: str | None) -> tuple[int, ...] | None:
    if asked is None or asked == "all":
        return None
    try:
        return tuple(int(each) for each in asked.split(","))
    except ValueError as why:
        msg = f"--layers must be numbers with commas between, or all; got {asked}"
        raise InvalidInputError(msg) from why


def _check_text(text: str) -> None:
    if not text:
        msg = "TEXT is empty; there is nothing to read"
        raise InvalidInputError(msg)


def _lens(model: str | None) -> "LogitLens":
    from geomkit.datasets.language_model import language_model
    from geomkit.datasets.layers import smollm2
    from geomkit.interpret.lens.logit_lens import logit_lens

    return logit_lens(smollm2() if model is None else language_model(model))


def _texts(file: Path | None, seed: int) -> list[str]:
    """Return texts to train on: the lines of a file that are not empty, or some of BBC News."""
    if file is None:
        import numpy as np

        from geomkit.datasets.corpora import bbc

        every = bbc().texts
        return [every[at] for at in np.sort(np.random.default_rng(seed).choice(len(every), 200, replace=False))]
    return [line for line in lines_of(file, "--texts") if line.strip()]


def _say(line: str) -> None:
    typer.echo(f"geomkit: {line}", err=True)
