"""The arithmetic of the comparison of servers, what its peers say of themselves, and that nothing which it started outlives it."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from benchmarks import serving
from benchmarks.serving_peers import Peer, bodies, peers, targets
from benchmarks.serving_peers.servers import MARK, Sample, _marked, running, start
from service.protocol.envelope import decode
from service.protocol.tensors import Slot

ROWS = np.random.default_rng(0).standard_normal((3, serving.WIDTH), dtype=np.float32)


def test_the_spread_is_half_the_range_between_quartiles_in_per_cent():
    """Of 1 to 5: quartiles 2 and 4, median 3. Where nothing was answered there is none."""
    assert targets.median_and_spread([5.0, 1.0, 3.0, 2.0, 4.0]) == (3, pytest.approx(100 / 3))
    assert targets.median_and_spread([0.0, 0.0]) == (0, 0)


def test_ratios_are_taken_within_rounds():
    """A machine that is slow in one round is slow for both; a round without answers of the other one says nothing."""
    ours, other = [Sample(100), Sample(10), Sample(50)], [Sample(50), Sample(5), Sample(0)]
    assert targets.ratios(ours, other) == [2, 2]


def test_targets_are_met_or_not_by_the_median_of_the_ratios():
    """Those that were not measured are left out."""
    target = targets.TARGETS[0]
    rounds = {target.ours: [Sample(10 * target.least, 1.0, 4.9)] * 3, target.other: [Sample(10), Sample(9), Sample(100)]}
    head, _, first, *tails = targets.judged({(target.shape, 64): rounds})
    assert head.startswith("| bodies")
    assert first.endswith("| 10x | 10.00x ± 25 % | yes |")
    assert [line.split("|")[-3:-1] for line in tails] == [[" 4.90x ± 0 % ", " yes "]]
    rounds[target.other] = [Sample(11)] * 3
    assert [*targets.judged({(target.shape, 8): rounds})][2:] == [
        f"| 1 x 512 | 8 | farfield, v2 binary | MLServer, v2 JSON | 10x | {100 / 11:.2f}x ± 0 % | **no** |"
    ]


def test_a_table_has_a_row_for_each_server_and_form_and_tells_failures():
    """What was left out at some number of connections has a dash there."""
    figures = {("a", 1): {("x", "raw"): [Sample(50, 1, 2, 3), Sample(150, 3, 4)]}, ("a", 8): {("y", ""): [Sample(7)]}, ("b", 1): {}}
    lines = [*targets.table(figures, "a")]
    assert lines[-2:] == ["| x, raw | 100 ± 25 %, 3 failed | 2.00, 3.00 | - | - |", "| y | - | - | 7.0 ± 0 % |  |"]
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_every_round_has_one_turn_of_each_and_begins_with_another():
    """So that none is always the first after a pause."""
    order = []
    calls = {name: lambda seconds, name=name: order.append(name) or seconds for name in "abc"}
    assert serving.taking_turns(calls, 2, 5, lambda: order.append(" ")) == {"a": [5, 5], "b": [5, 5], "c": [5, 5]}
    assert "".join(order) == " a b c b c a"


def test_every_target_names_what_is_measured():
    """Names and forms are those of servers; a misspelled one would never be judged."""
    forms = {peer.name: peer.paths for peer in peers()} | {targets.OURS: serving.PATHS, targets.TWO: serving.PATHS}
    for target in targets.TARGETS:
        assert target.shape in serving.SHAPES
        for name, form in (target.ours, target.other):
            assert name in {targets.KERNEL, targets.NETWORK} or form in forms[name]


def test_peers_say_what_they_need_and_answer():
    """Forms are known, the package whose version is told is one that is installed, and a script without metadata is no peer."""
    for peer in peers():
        assert peer.paths.keys() <= bodies.FORMS.keys()
        assert any(need.startswith(peer.package) for need in peer.dependencies)
    assert {peer.name for peer in peers()} >= {"MLServer", "Triton", "FastAPI", "BentoML", "LitServe", "Ray Serve"}
    assert Peer.of(Path(bodies.__file__)) is None


@pytest.mark.parametrize("form", ["v2 binary", "v2 JSON"])
def test_bodies_of_the_protocol_hold_the_rows(form):
    """As the service reads them; JSON has the digits of single precision, which give the same numbers."""
    headers, body = bodies.FORMS[form].make(ROWS)
    query = decode(body, headers.get(bodies.LENGTH), Slot("rows", "FP64", (-1, serving.WIDTH)), len(body))
    assert_array_equal(query.inputs["rows"].data, ROWS)


def test_processes_that_a_server_leaves_behind_are_ended(tmp_path):
    """A child in a session of its own, whose parent has ended, is found by its environment."""
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)"
    with running() as environment:
        server = start("parent", "", [sys.executable, "-c", code], {}, environment, tmp_path)
        assert server.process.wait() == 0
        until = time.monotonic() + 10
        while not (left := _marked(environment[MARK])) and time.monotonic() < until:  # a process just begun has no environment yet
            time.sleep(0.01)
        assert len(left) == 1
    assert not _marked(environment[MARK])


def test_a_server_that_does_not_start_is_told_with_what_it_printed(tmp_path):
    """At once, when its process ends."""
    with running() as environment:
        server = start("broken", "", [sys.executable, "-c", "print('no such thing')"], {"raw": "/"}, environment, tmp_path)
        with pytest.raises(serving.Unavailable, match="no such thing"):
            server.wait("raw", ({}, b""))


def test_the_tables_have_their_place_on_the_page():
    """Once."""
    page = serving.PAGE.read_text()
    assert page.count(f"<!-- {serving.SECTION} begins -->") == page.count(f"<!-- {serving.SECTION} ends -->") == 1
