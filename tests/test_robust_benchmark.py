"""The simulation of robust shrinkage decides: what lies outside of the error of both sides is marked and counted."""

import numpy as np
import pytest

from benchmarks import robust_shrinkage
from benchmarks.robust_shrinkage import Cell, Reference, astray, simulation

CELL = Cell(5, 100, 0.1, 5, 0.1)


@pytest.mark.parametrize(
    ("reference", "count"),
    [
        (Reference(1, 0.03, 100), 0),
        (Reference(1, 0.045, 100), 1),
        (Reference(None, 0.045, 5), 0),  # five seeds say less
        (Reference(1, None, 100), 0),
        (Reference(0.9996, 0.03, 100), 0),  # the same to three digits
        (Reference(0.5, 0.045, 100), 2),
    ],
)
def test_what_lies_outside_is_counted(reference, count):
    """Over 200 seeds all is found and 3 % ± 0.1 % are flagged: errors are those of both sides, and three digits are all there are."""
    flagged = 0.03 + 0.014 * np.resize([-1.0, 1.0], 200)
    assert astray(np.column_stack([np.ones(200), flagged, np.ones(200)]), reference, CELL) == count


def test_few_seeds_that_agree_are_no_proof():
    """Two seeds in which all of ten planted rows are found do not contradict 95 % found; 200 such seeds do."""
    for seeds, count in ((2, 0), (200, 1)):
        assert astray(np.ones((seeds, 3)), Reference(0.95, None, 100), CELL) == count


def test_the_command_ends_with_1_where_a_cell_is_outside(monkeypatch, capsys):
    """True references pass, an invented one is marked in its cell, and the status says so."""
    cells = [CELL._replace(default=Reference(1, 0.028, 30)), CELL._replace(port=Reference(1, 0.5, 30), cov_mcd="1.000 / 0.022")]
    assert simulation(3, cells[:1]) == 0
    assert "outside" not in capsys.readouterr().out
    monkeypatch.setattr(robust_shrinkage, "simulation", lambda repeats: simulation(repeats, cells))
    monkeypatch.setattr("sys.argv", ["robust_shrinkage", "--simulation", "--repeats", "3"])
    with pytest.raises(SystemExit) as ended:
        robust_shrinkage.main()
    assert ended.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.count("**outside**") for line in lines if line.startswith("| 5")] == [0, 1]
    assert "[1.000 / 0.500] **outside** |" in lines[-3]
