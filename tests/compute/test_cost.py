"""The meter against a known sleep, a known computation and a known allocation."""

import time

import pytest
import torch

from momos.compute.cost import Meter


def test_wall_and_processor_seconds_and_memory():
    with Meter(torch.device("cpu")) as meter:
        held = bytearray(200 << 20)
        held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])  # touch every page
        time.sleep(0.3)
    cost = meter.read()
    assert cost["seconds"] >= 0.3 and cost["cpu_seconds"] < cost["seconds"]
    assert 200 << 20 < cost["peak_memory_bytes"] < 24 << 30
    assert cost["device"] == "cpu" and cost["peak_device_memory_bytes"] is None


def test_an_error_passes_through_and_is_still_measured():
    with pytest.raises(KeyError), Meter(torch.device("cpu")) as meter:
        raise KeyError
    assert meter.read()["seconds"] >= 0
