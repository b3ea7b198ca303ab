"""Benchmark cases: inputs prepared, code compiled, the answer proved right, and then a thunk for the timer."""

from bench.speed.cases.case import OURS, Case, Contender
from bench.speed.cases.concentration import ConcentrationCase
from bench.speed.cases.cosine import CosineCase, KeopsCase
from bench.speed.cases.moments import MomentsCase
from bench.speed.cases.neighbors import NeighborsCase
from bench.speed.cases.similarity import SimilarityCase
from bench.speed.cases.survey import SurveyCase

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
