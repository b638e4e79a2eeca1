"""What must be set before a training process starts, and the facts about the machine it runs on.

Imports no jax: the command line calls `prepare` first and re-executes itself with the settings in place.
"""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

_GUARD = "WINDTUNNEL_ENVIRONMENT"

_LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "array-record",
    "numpy",
    "windtunnel",
)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS has no affinity


# Variables of a training process and why it wants them; each is left alone where the user has set it.
SETTINGS = {
    "XLA_FLAGS": "one host device a core: they share a batch and scale better than threads inside operations",
    "GLIBC_TUNABLES": "huge pages for malloc: page faults on XLA's buffers dominate small models otherwise",
    "NPROC": "the thread count of XLA's pool, which changes last digits",
    "JAX_COMPILATION_CACHE_DIR": "compiled programs are kept for the next process",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "small programs are kept too",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "small programs are kept too",
}


def settings() -> dict[str, str]:
    """The values of `SETTINGS` that this process does not have yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "windtunnel" / "xla"
    values = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={cores()}",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "NPROC": str(cores()),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return {name: value for name, value in values.items() if name not in os.environ}


def prepare() -> None:
    """Starts this process anew, once, with `settings` in its environment (same PID, same arguments).

    Must be called before jax is imported; a process that has been through it goes on at once.
    """
    if os.environ.get(_GUARD) or sys.platform != "linux":
        return
    environment = os.environ | settings() | {_GUARD: "1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def commit() -> str | None:
    """The commit of the checkout that this module lies in, or None outside one."""
    folder = Path(__file__).parent
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide numbers."""
    found = {"python": sys.version.split()[0]}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
