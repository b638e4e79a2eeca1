"""What every test shares: the settings that must stand before jax is imported, and a tiny prepared corpus."""

import os
import sys
from pathlib import Path

import pytest

# two devices, and the thread count that bitwise statements hold for
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["NPROC"] = "2"
sys.path.insert(0, str(Path(__file__).parent))  # for tiny: importlib mode adds no folder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder with the two tiny tasks prepared."""
    import tiny  # here, for it imports jax, which most tests do without

    folder = tmp_path_factory.mktemp("data")
    for seed, task in enumerate((tiny.CODE, tiny.PROSE)):
        tiny.write_corpus(task, folder, seed)
    return folder
