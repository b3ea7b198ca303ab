"""Our audit beside vecscope, spectralyte and scikit-dimension: what they say, seconds and peak memory."""

from bench.harness.study import Context, Study, Tables, Unit
from bench.inputs import spaces
from bench.measures import audit_peers


def units(context: Context) -> tuple[Unit, ...]:
    """Every sample is a unit, by the name of its source."""
    return spaces.units(context, _samples(context))


def measure(context: Context, unit: Unit) -> Tables:
    """Hold all tools against each other on one sample: audit_peers.csv and audit_peer_values.csv."""
    times, values = audit_peers.contest(_samples(context)[unit.name], context, unit.absent)
    return {"audit_peers.csv": times, "audit_peer_values.csv": values}


def _samples(context: Context) -> dict[str, audit_peers.Sample]:
    samples = audit_peers.SAMPLES_QUICK if context.quick else audit_peers.SAMPLES
    return {each.source: each for each in samples}


STUDY = Study(
    "audit-peers", "our audit beside other audits: what they say, seconds and memory", measure, units, by_code=False,
    alone=True,
)  # fmt: skip
