"""What the test modules share: deterministic hypothesis, a tiny random network."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hub_server import HubServer
from hypothesis import settings

from selavpr import ModelConfig, SelaVPR

pytest_plugins = ("engine_fixtures",)

# The same examples on every machine and run; slow shared machines must not fail a test.
settings.register_profile("selavpr", deadline=None, derandomize=True, database=None)
settings.load_profile("selavpr")


def pytest_configure(config: pytest.Config) -> None:
    """One thread for each process among which pytest-xdist divides the tests, and its children."""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)


TINY = ModelConfig(width=32, depth=2, heads=4, local_hidden=16, local_dim=8, input_size=56)


def random_model(config: ModelConfig, seed: int = 0) -> SelaVPR:
    """A network in which every tensor, adapters included, has an effect on the output."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = SelaVPR(config)
        for name, parameter in model.named_parameters():
            if name != "pool.p":
                parameter.add_(torch.randn(parameter.shape), alpha=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def running() -> Iterator[HubServer]:
    """A Hub on this machine; what it holds is for each test to say."""
    with HubServer() as server:
        yield server


@pytest.fixture
def tiny_config() -> ModelConfig:
    return TINY


@pytest.fixture
def tiny_model(tiny_config: ModelConfig) -> SelaVPR:
    return random_model(tiny_config)


@pytest.fixture
def tiny_reg4_model() -> SelaVPR:
    return random_model(
        ModelConfig(
            width=32, depth=2, heads=4, registers=4, local_hidden=16, local_dim=8, input_size=56
        )
    )
