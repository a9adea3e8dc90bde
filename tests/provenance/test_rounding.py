"""The fingerprint of a machine's rounding.

It is the same wherever a training gives the same bytes, and another where a kernel sums otherwise.
"""

import os
import platform
import subprocess
import sys

import pytest
import torch
from clones import environment, fork
from source_files import ROOT

from momos.compute import device
from momos.provenance import rounding

CODE = """
from momos.compute import device
from momos.provenance import rounding
print(rounding.fingerprint(device.prepare_device("cpu", 1)))
"""


def printed(command: list, env: dict[str, str]) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_it_is_the_same_each_time_and_leaves_the_global_generator_alone(tmp_path, warm):
    """And in a process with another order of sets."""
    cpu = device.prepare_device("cpu", 1)
    before = torch.get_rng_state()
    here = rounding.fingerprint(cpu)
    assert len(here) == 16 and int(here, 16) >= 0 and torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    (tmp_path / "code.py").write_text(CODE)
    env = environment() | {"PYTHONPATH": str(ROOT / "src")}
    other = printed([fork(warm), tmp_path / "code.py"], env)
    assert rounding.fingerprint(cpu) == here == other


@pytest.mark.stress
@pytest.mark.skipif(
    platform.machine() != "x86_64" or torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="one kind of kernels",
)
def test_other_kernels_have_another():
    """As a processor without AVX2 would take them."""
    here = rounding.fingerprint(device.prepare_device("cpu", 1))
    env = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    assert printed([sys.executable, "-c", CODE], env) != here


@pytest.mark.parametrize("name", ["convolutions", "norms", "attention", "hidden", "last"])
def test_every_layer_takes_part(name, monkeypatch):
    """One weight moved by its last bit after training is another fingerprint."""
    cpu, trained = device.prepare_device("cpu", 1), rounding._trained
    here = rounding.fingerprint(cpu)

    def nudged(*args):
        model = trained(*args)
        weight = next(getattr(model, name).parameters()).detach()
        first = (0,) * weight.ndim
        weight[first] = torch.nextafter(weight[first], torch.tensor(torch.inf))
        return model

    monkeypatch.setattr(rounding, "_trained", nudged)
    assert rounding.fingerprint(cpu) != here


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_has_its_own():
    cuda = device.prepare_device("cuda", 1)
    assert (
        rounding.fingerprint(cuda)
        == rounding.fingerprint(cuda)
        != rounding.fingerprint(torch.device("cpu"))
    )
