"""What cosine similarity is used for, beside other metrics and chance: word similarity, analogies, retrieval."""

from dataclasses import asdict

import pandas as pd

from bench.harness.study import Context, Study, Tables, Unit
from bench.inputs import spaces
from bench.measures import tasks
from geomkit.datasets import corpora

WORDS = ("googlenews-300", "glove-50")
DOCUMENTS = (
    "tfidf-bbc-12597", "minilm-384", "use-512", "smollm2-documents-layer00-576", "smollm2-documents-layer16-576",
    "smollm2-documents-layer30-576",
)  # fmt: skip


def units(context: Context) -> tuple[Unit, ...]:
    """Every source is a unit."""
    return tuple(each for each in spaces.units(context, (*WORDS, *DOCUMENTS)) if not each.absent)


def measure(context: Context, unit: Unit) -> Tables:
    """Score one source."""
    found = spaces.load(unit.name, context)
    scores = []
    if unit.name in WORDS:
        scores += tasks.word_similarity(found, "WordSim-353", corpora.wordsim353(), context.seed)
        scores += tasks.word_similarity(found, "SimLex-999", corpora.simlex999(), context.seed)
    if unit.name == "googlenews-300":
        questions = [question for section in corpora.analogies().values() for question in section]
        scores += tasks.analogies(found, questions[::20] if context.quick else questions, context.seed)
    if unit.name in DOCUMENTS and found.categories is not None:
        scores += tasks.retrieval(found, context.seed)
    return {"usefulness.csv": pd.DataFrame([asdict(score) for score in scores])}


STUDY = Study("usefulness", "word similarity, analogies and retrieval by cosine, beside other metrics", measure, units)
