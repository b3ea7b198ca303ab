"""The table of studies: adding one is a row here and a file beside this one."""

from bench.runner import Study
from bench.studies import (
    atlas,
    audits,
    claims,
    decode,
    factorise,
    geometry,
    gpu,
    interpret,
    lens,
    lookup,
    report,
    roofline,
    sae,
    scale,
    separability,
    speed,
    validity,
)

_ALL = (
    geometry.STUDY,
    speed.STUDY,
    roofline.STUDY,
    gpu.STUDY,
    audits.STUDY,
    validity.STUDY,
    separability.STUDY,
    factorise.STUDY,
    lens.STUDY,
    decode.STUDY,
    sae.STUDY,
    interpret.STUDY,
    atlas.STUDY,
    lookup.STUDY,
    scale.STUDY,
    # Reads the tables of others.
    claims.STUDY,
    report.STUDY,
)

STUDIES: dict[str, Study] = {study.name: study for study in _ALL}
