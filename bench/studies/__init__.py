"""The table of studies: adding one is a row here and a file beside this one."""

from bench.runner import Study
from bench.studies import claims, figures, geometry, gpu, roofline, speed, speed_figure

_ALL = (geometry.STUDY, figures.STUDY, claims.STUDY, speed.STUDY, speed_figure.STUDY, roofline.STUDY, gpu.STUDY)

STUDIES: dict[str, Study] = {study.name: study for study in _ALL}
