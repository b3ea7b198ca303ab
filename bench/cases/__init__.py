"""Benchmark cases: inputs prepared, code compiled, the answer proved right, and then a thunk for the timer."""

from bench.cases.case import OURS, Case, Contender
from bench.cases.concentration import ConcentrationCase
from bench.cases.cosine import CosineCase, KeopsCase
from bench.cases.moments import MomentsCase
from bench.cases.neighbors import NeighborsCase
from bench.cases.similarity import SimilarityCase
from bench.cases.survey import SurveyCase

__all__ = [
    "OURS",
    "Case",
    "ConcentrationCase",
    "Contender",
    "CosineCase",
    "KeopsCase",
    "MomentsCase",
    "NeighborsCase",
    "SimilarityCase",
    "SurveyCase",
]
