"""A study answered here and now: its units one after the other, with nothing kept and nothing recorded."""

import pandas as pd

from bench.harness.study import Context, Study


def context_of(study: str, out, **settings) -> Context:
    """A context of a study that writes to `out`."""
    return Context(study, out, **settings)


def answer(study: Study, context: Context) -> list[str]:
    """Measure all units, write the tables, conclude and draw; return the names of the files."""
    tables = {}
    for unit in study.units(context) if study.measure is not None else ():
        for name, frame in study.measure(context, unit).items():
            tables.setdefault(name, []).append(frame)
    for name, frames in tables.items():
        context.table(name, pd.concat([each for each in frames if len(each)] or frames, ignore_index=True))
    for stage in (study.conclude, study.draw):
        if stage is not None:
            stage(context)
    return sorted(path.name for path in context.files)
