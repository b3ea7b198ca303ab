"""Tables of the command line: plain and whole away from a terminal, and within its width at one, with nothing lost."""

import re

import numpy as np
import pytest

import geomkit
from geomkit.auditing.result import cells, conclusion, introduction
from geomkit.cli import findings, tables
from geomkit.core.result import format_number
from tests.cli.test_cli import call, run  # noqa: F401

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def terminal(monkeypatch):
    def of(width):
        monkeypatch.setattr(tables, "at_terminal", lambda: True)
        monkeypatch.setattr(findings, "at_terminal", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))

    return of


@pytest.fixture(scope="module")
def audited():
    rows = np.random.default_rng(0).standard_normal((150, 8), dtype=np.float32) + 1
    return geomkit.audit(rows, null_draws=2, try_transforms=False)


def letters(text):
    """Everything but spaces and rules, however lines are broken."""
    return sorted(re.sub(r"[\s─]", "", ESCAPE.sub("", text)))


def test_a_pipe_gets_plain_lines_one_a_row(call):  # noqa: F811
    _, out, _ = call("sources")
    assert "\x1b" not in out
    assert "─" not in out
    lines = out.splitlines()
    assert len(lines) == 1 + len(geomkit.datasets.SOURCES)
    for line, source in zip(lines[1:], geomkit.datasets.SOURCES.values(), strict=True):
        assert line.startswith(source.name)
        assert line.endswith(source.about)


@pytest.mark.parametrize("width", [40, 60, 80, 109, 110, 200])
def test_a_terminal_gets_an_audit_within_its_width_and_all_of_it(terminal, audited, width):
    terminal(width)
    text = findings.shown_audit(audited)
    around = len(introduction(audited)), len(conclusion(audited))
    drawn = "\n".join(ESCAPE.sub("", text).splitlines()[around[0] : -around[1]])
    assert all(len(line) <= width for line in drawn.splitlines())
    for each in audited.findings:
        # A broken cell is whole once lines are joined: its letters are all there.
        assert not set(letters(each.statistic)) - set(letters(drawn))
    run_on = re.sub(r"\s", "", drawn)
    if width in {80, 109}:
        for each in audited.findings:
            assert re.sub(r"\s", "", cells(each)[-1]) in run_on
        assert {"cosine", "hubness", "spectrum"} <= {line.strip() for line in drawn.splitlines()}
    if width >= 80:
        words = drawn.split()
        assert {each.statistic for each in audited.findings} <= set(words)
        for each in audited.findings:
            if each.value == each.value:
                assert format_number(each.value) in words


def test_every_width_shows_the_same_letters(terminal, audited):
    said = {}
    for width in (40, 60, 80, 109):
        terminal(width)
        said[width] = letters(findings.shown_audit(audited))
    # The headings may be broken, too, but no letter of the text is lost or said twice.
    assert said[40] == said[60] == said[80] == said[109]


def test_verdicts_are_coloured_and_written_out(terminal, audited):
    terminal(120)
    text = findings.shown_audit(audited)
    assert audited["cosine_mean"].verdict == "warn"
    line = next(each for each in text.splitlines() if "cosine_mean" in each)
    assert "\x1b[1;33mWARN" in line
    assert "verdict: WARN" in text


def test_a_comparison_has_a_column_for_each_space(terminal):
    rng = np.random.default_rng(1)
    spaces = {"[red]a[/red]": rng.standard_normal((120, 6)), "b" * 30: rng.standard_normal((120, 6)) + 2}
    compared = geomkit.compare(spaces, null_draws=2)
    terminal(120)
    text = ESCAPE.sub("", findings.shown_comparison(compared))
    assert "[red]a[/red]" in text
    assert "b" * 30 in text
    first, second = (audit["cosine_mean"].value for audit in compared.audits.values())
    line = next(each for each in text.splitlines() if each.strip().startswith("cosine_mean"))
    assert line.split()[1:3] == [format_number(first), f"{format_number(second)}*"]
    assert "nearest neighbours are the same" in text.splitlines()[0]  # how alike they are stands first
    assert text.rstrip().splitlines()[-1].strip().startswith("not tested, for want of a standard error: ")


def test_away_from_a_terminal_an_audit_is_the_text_of_the_library(audited, capsys):
    assert findings.shown_audit(audited) == str(audited)
