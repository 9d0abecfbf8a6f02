import time

import pytest

from evomerge.config import search_config
from evomerge.errors import ConfigError
from evomerge.search.baselines import source_recipes
from evomerge.search.outcome import Job
from evomerge.search.workers import WorkerPool, require_answer


@pytest.fixture
def config(tiny):
    def make(*overrides: str):
        return search_config(["models=tiny", "genome=tiny", "suite=tiny", "study=s", *overrides], tiny)

    return make


def wait_until_free(pool: WorkerPool) -> None:
    deadline = time.monotonic() + 120
    while not pool.free and time.monotonic() < deadline:
        pool.wait(1.0)
    assert pool.free


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_job_that_takes_too_long_ends_and_its_worker_is_replaced(config):
    limited = config("workers.count=1", "workers.timeout=0.01")
    job = Job("base", source_recipes(limited.models)["base"])
    with WorkerPool(limited) as pool:
        with pytest.raises(RuntimeError, match="no worker is free"):
            pool.submit(job)
        for _ in range(2):
            wait_until_free(pool)
            pool.submit(job)
            assert (pool.free, pool.busy) == (0, 1)
            ((ended, outcome),) = pool.wait(0.02)
            assert ended == job
            assert outcome.reason.startswith("timeout: took longer than 0.01 s")
            assert not outcome.lost


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize("address", ["a..b:6379", f"ray://{'x' * 64}.com:10001"])
def test_an_address_whose_host_no_name_can_be_is_told_in_one_line(address):
    with pytest.raises(ConfigError) as error:
        require_answer(address)
    assert f"no Ray cluster to work on (workers.address={address}): found no name of a host" in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["workers.gpus=1"], "expected at most 0 such workers, found 2, and nodes with"),
        pytest.param(["workers.count=1000"], "found 1000, and nodes with", marks=pytest.mark.soak),
    ],
)
def test_more_than_the_cluster_has_is_refused(config, overrides, told):
    with pytest.raises(ConfigError, match=told), WorkerPool(config(*overrides)):
        raise AssertionError("the pool was entered")
