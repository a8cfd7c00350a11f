"""The conditions that every measurement shares."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from perstep.experiments.conditions import describe_machine, hash_ids, threads_limited
from perstep.runs import Manifest


def test_the_hash_of_token_ids_tells_workloads_apart() -> None:
    """By value, shape and order; not by integer type or memory layout."""
    ids = np.array([[1, 2, 3], [4, 5, 6]])
    same = [ids.astype(np.int32), np.asfortranarray(ids), ids.astype(">i8"), ids.copy()]
    assert {hash_ids(array) for array in same} == {hash_ids(ids)}
    others = [ids[:1], ids.T, ids.ravel(), ids + 1, ids[::-1], ids.reshape(3, 2)]
    assert len({hash_ids(array) for array in [ids, *others]}) == 1 + len(others)
    assert hash_ids(ids, ids) != hash_ids(ids)
    assert len(hash_ids(ids)) == 64


def test_threads_are_limited_inside_and_as_before_after() -> None:
    """After exceptions too."""

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    assert before, "NumPy's matrix library is not recognised"
    for limit in (1, 2):
        with threads_limited(limit):
            assert threads() == [limit] * len(before)
        assert threads() == before
    with pytest.raises(ZeroDivisionError), threads_limited(2):
        _ = 1 / 0
    assert threads() == before


def test_the_manifest_tells_the_machine() -> None:
    """As plain values; warnings that were there stay."""
    manifest = Manifest(experiment="ledger", plan={}, warnings=["one"])
    describe_machine(manifest, threads=1)
    assert manifest.machine["cpu"]["model"]
    assert manifest.warnings[0] == "one"


def test_the_load_is_that_before_measuring() -> None:
    """Where the machine is described afterwards, the work itself has raised it."""
    manifest = Manifest(experiment="watch", plan={})
    describe_machine(manifest, threads=1, load_before=900.25)
    assert manifest.machine["host"]["load_average_1min"] == 900.25
    assert any("the load average was 900.25 on" in warning for warning in manifest.warnings)
