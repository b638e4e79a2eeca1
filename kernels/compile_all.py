"""Compile every kernel for chips that are not there, and print what their compilers say: `make kernels-compile`.

A markdown table of kernel, chip, shape, registers and spills (GPU), shared memory or VMEM, and temporaries. A chip
whose compiler is not installed is named and left out. The exit status is 1 where a kernel spills registers or nothing
could be compiled.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator

COLUMNS = ("kernel", "chip", "shape", "registers", "spills", "SMEM / VMEM", "temp MiB")

Rows = Callable[[], Iterator[dict[str, str]]]


def line(row: dict[str, str]) -> str:
    """A row of the table in markdown; what it does not say is left empty."""
    return "| " + " | ".join(row.get(column, "") for column in COLUMNS) + " |"


def compilers() -> dict[str, Rows | str]:
    """Of each platform, what gives its rows, or why there are none."""
    from kernels import deviceless_gpu, deviceless_tpu

    tpu: Rows | str = deviceless_tpu.tpu_rows
    if importlib.util.find_spec("libtpu") is None:
        tpu = "libtpu is not installed"
    return {"GPU": deviceless_gpu.missing() or deviceless_gpu.gpu_rows, "TPU": tpu}


def main() -> None:
    """Prints the table as it grows."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}  # before jax is imported
    print(line(dict(zip(COLUMNS, COLUMNS, strict=True))))
    print("|" + " --- |" * len(COLUMNS), flush=True)
    skipped, count, spilled = [], 0, 0
    for platform, rows in compilers().items():
        if isinstance(rows, str):
            skipped.append(f"{platform} kernels were not compiled: {rows}")
            continue
        for row in rows():
            print(line(row), flush=True)
            count += 1
            spilled += row.get("spills", "0 B") != "0 B"
    print("\n".join(skipped), file=sys.stderr)
    if spilled:
        print(f"{spilled} of {count} kernels spill registers", file=sys.stderr)
    sys.exit(1 if spilled or not count else 0)


if __name__ == "__main__":
    main()
