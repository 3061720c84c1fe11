"""Pages of the documentation, into which benchmarks put their tables."""


def written(page: str, mark: str, text: str) -> str:
    """``page`` with ``text`` in place of what stood between the two comments ``<!-- mark begins -->`` and ``<!-- mark ends -->``."""
    begin, end = (f"<!-- {mark} {word} -->" for word in ("begins", "ends"))
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page must hold the lines {begin} and {end}, in this order")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"
