"""Prints how many rows the source named on the command line has, and by how many MiB walking it made this process grow at most."""

import re
import sys
from pathlib import Path

from service.sources import open_source


def peak() -> int:
    """Highest resident memory so far in KiB, with mapped pages; what getrusage tells begins at that of the parent."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


if __name__ == "__main__":
    before = peak()
    rows = sum(len(chunk) for chunk in open_source(sys.argv[1]).walk())
    print(rows, (peak() - before) // 1024)
