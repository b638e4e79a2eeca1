"""Processes that do the same work side by side: each warm before the first round, asleep while another runs."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from scaling import environment
from scaling.errors import UserError

QUIET_CORES = 0.1  # used by other processes, at most, in a round that counts for a ratio
# on an accelerator contenders share the memory: nobody takes most of it beforehand
_SHARED_DEVICE = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclasses.dataclass(frozen=True)
class Round:
    """What one contender did in one round.

    Attributes:
        tokens_per_second: the round's median.
        other_cores: cores that other processes used meanwhile, on average.
        matmul_gflops: rate of large matrix products on all devices, from contenders that measure it.
    """

    tokens_per_second: float
    other_cores: float
    matmul_gflops: float | None


def is_quiet(together: tuple[Round, ...]) -> bool:
    """Whether other processes left the machine to every contender of a round."""
    return all(r.other_cores < QUIET_CORES for r in together)


def cpu_seconds(pid: int | None) -> float:
    """CPU seconds used so far by a process, or by the whole machine (idle time left out)."""
    ticks = os.sysconf("SC_CLK_TCK")
    if pid is None:
        user, nice, system, _, _, *interrupts_and_stolen = (
            int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        return (user + nice + system + sum(interrupts_and_stolen)) / ticks
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / ticks


class Contender:
    """A process that trains one shape for as long as it is told to, and says how fast it was.

    The protocol is lines on its pipes: it prints its facts once warm; a number of seconds in, its figures out.
    """

    def __init__(self, name: str, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_SHARED_DEVICE | os.environ | environment.settings(),
            cwd=Path(__file__).parents[2],
        )
        self.name = name
        self.facts = self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.close()
            raise UserError(f"benchmark: {self.name} ended with code {self.process.returncode}: see its message above")
        return json.loads(line)

    def round(self, seconds: float) -> Round:
        """Trains for about `seconds`."""
        assert self.process.stdin is not None
        pid = self.process.pid
        before = cpu_seconds(None), cpu_seconds(pid)
        print(seconds, file=self.process.stdin, flush=True)
        answer = self._answer()
        others = (cpu_seconds(None) - before[0]) - (cpu_seconds(pid) - before[1])
        return Round(answer["tokens_per_second"], max(0.0, others) / answer["seconds"], answer.get("matmul_gflops"))

    def close(self) -> None:
        """Ends the process: its input ends."""
        self.process.communicate()
