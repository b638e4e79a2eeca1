"""How the tests of the Hopper kernels run them: in jax's GPU interpreter, which looks for races."""

import dataclasses

from cases import Runner
from jax._src.pallas.mosaic_gpu.interpret import gpu_callbacks  # no public name
from jax.experimental.pallas import mosaic_gpu as plgpu

RACES = plgpu.InterpretGPUParams(detect_races=True)


@dataclasses.dataclass(frozen=True)
class Racing(Runner):
    """A backend in the interpreter with race detection: without it, a wait that is missing goes unnoticed."""

    def interpret(self):
        return RACES


GPU = Racing("pallas_gpu", "bfloat16", 2e-2)


def reset():
    """Must follow an exception inside of a kernel, or the next one meets its remains."""
    gpu_callbacks.reset_gpu_interpret_mode_state()


class Careless:
    """Stands for the module `plgpu` in a kernel's: waits at barriers that come in such a number are left out."""

    def __init__(self, barriers):
        self.barriers = barriers

    def __getattr__(self, name):
        return getattr(plgpu, name)

    def barrier_wait(self, barrier):
        if getattr(barrier, "ref", barrier).shape != (self.barriers,):
            plgpu.barrier_wait(barrier)
