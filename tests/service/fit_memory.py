"""Fits the rows of the file named on the command line in passes, and prints how many, and by how many MiB that made this process grow."""

import sys
from pathlib import Path

from tests.service.fits import fit, rows, task_of
from tests.service.source_memory import peak

MEMORY = 8 * 2**20

if __name__ == "__main__":
    import numpy as np

    np.save(Path(sys.argv[1]).with_name("small.npy"), rows(2000, 16))
    fit(task_of(Path(sys.argv[1]).with_name("small.npy"), sys.argv[2]))  # what the libraries take once
    before = peak()
    fitted = fit(task_of(sys.argv[1], sys.argv[2], memory=MEMORY))
    print(fitted.n_fit + fitted.n_calibration, (peak() - before) // 1024)
