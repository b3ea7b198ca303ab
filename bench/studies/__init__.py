"""The table of studies: adding one is a row here and a file beside this one. Each runs behind those it reads."""

from bench.harness.study import Study
from bench.studies import (
    atlas,
    audit_peers,
    audits,
    claims,
    decode,
    distance_nulls,
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
    usefulness,
    validity,
)

_MODULES = (
    distance_nulls, geometry, usefulness, audits, validity, separability, factorise, lens, decode, sae, interpret,
    atlas, roofline, speed, gpu, audit_peers, lookup, scale, claims, report,
)  # fmt: skip

STUDIES: dict[str, Study] = {module.STUDY.name: module.STUDY for module in _MODULES}
