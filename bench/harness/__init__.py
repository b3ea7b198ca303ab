"""How studies run: units, their keys, what is kept of them, the processes that measure them, and what is written down.

A study (`study.py`) is a question that is divided into units, such as one source. A unit is measured in a process of
its own (`execute.py`), and what it returns is kept in the cache folder under a key (`store.py`): a digest of code
that it reaches (`code_keys.py`), of the data that it reads and of its settings. `plan.py` compares keys, and says what
is stale and why. From the units the tables of a study are put together, what follows from them is concluded, figures
are drawn (`finish.py`). `results/<study>.provenance.json` says what made each unit (`provenance.py`), so that a fresh
clone knows what is current. Start reading at `study.py`, then `plan.py`.

::

    Study ── units ──► plan (keys) ──► execute (processes) ──► store ──► finish (tables, conclude, draw, provenance)
"""
