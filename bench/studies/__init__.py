"""The table of studies: adding one is a row here and a file beside this one."""

from bench.runner import Study
from bench.studies import claims, figures, geometry, speed

STUDIES: dict[str, Study] = {study.name: study for study in (geometry.STUDY, figures.STUDY, claims.STUDY, speed.STUDY)}
