"""Unmodified clients against a server with a real model; each in an environment that `make clients` makes."""

from __future__ import annotations

import pytest
from _client_envs import PACKAGES, run, runner_of
from _published import published
from _servers import running

from llmanac.generate.load import load_writer

pytestmark = [pytest.mark.slow, pytest.mark.pretrained]


@pytest.fixture(scope="module")
def address():
    with running(load_writer(published("qwen"), runner="native"), model_name="qwen") as server:
        yield server.url


@pytest.mark.parametrize("name", PACKAGES)
def test_a_client_does_what_it_exists_for(address, name):
    if not runner_of(name):
        pytest.skip(f"needs {name} in an environment of its own: make clients")
    assert run(name, address, "qwen")
