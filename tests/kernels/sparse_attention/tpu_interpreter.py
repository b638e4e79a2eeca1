"""How the tests of the TPU kernels run them in jax's TPU interpreter, and the bugs that it must find there."""

import dataclasses
from typing import Any

from cases import Runner
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.sparse_attention import tpu_tiles


@dataclasses.dataclass(frozen=True)
class Interpreted(Runner):
    """A backend in an interpreter with parameters."""

    parameters: Any = True

    def interpret(self):
        return self.parameters


# Copies land when they are waited for, and memory starts as NaN; programs run in a random order.
PLAIN = Interpreted("pallas_tpu", "float32", 2e-5, pltpu.InterpretParams(random_seed=0))
RACES = Interpreted("pallas_tpu", "float32", 2e-5, pltpu.InterpretParams(detect_races=True, random_seed=0))


def wait_for_all_but_the_second(copies):
    """A planted bug: what the second copy brings is used before it is there."""
    for copy in (copies[0], *copies[2:]):
        copy.wait()


def stream_through_one_slot(first, end, fetch, body):
    """A planted bug: `stream`, but the next step's copies fly into the slot that this step reads."""

    @pl.when(first < end)
    def _():
        tpu_tiles.start(fetch(first, 0))

    @pl.loop(first, end)
    def _(j):
        tpu_tiles.wait(fetch(j, 0))

        @pl.when(j + 1 < end)
        def _():
            tpu_tiles.start(fetch(j + 1, 0))

        body(j, 0)
