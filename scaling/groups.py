"""Which runs of a plan train together: those of one compiled program, for the same reasons on every day."""

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from scaling.config import RunConfig
from scaling.mesh import Room
from scaling.study import Planned

# How much longer runs take that share their batch between devices than runs that keep to one each.
_SHARING_COSTS = 1.1


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of a plan that train as one program.

    Attributes:
        label: what tables call it.
        entries: those of its runs; one run may have several, which end at different steps.
        runs: R, the places for runs in the program.
    """

    label: str
    entries: tuple[Planned, ...]
    runs: int


def groups(planned: Sequence[Planned], room: Callable[[RunConfig], Room]) -> list[Group]:
    """A plan's runs in the groups in which they are trained, trunks before what leaves them.

    Runs are grouped that differ only in what enters the compiled program as data (rates and their schedule, weight
    decay, clip value, seed, scales, initialisation, the mixture) and that are all without parent, or all branches of
    one kind from trunks of one program. Those of like length come together. It is a function of the plan alone, so a
    run is trained in the same company however often the study is interrupted.

    Args:
        planned: from `plan_study`, with run ids.
        room: for a run, what runs like it are to be grouped by.
    """
    configs = {entry.run: entry.config for entry in planned}
    trunks: dict[Any, dict[Any, dict[str, list[Planned]]]] = {}
    for entry in planned:
        trunk, program = _program(configs[entry.trunk]), _program(entry.config)
        kinds = trunks.setdefault(trunk, {trunk: {}})  # the trunks' own group comes first
        kinds.setdefault(program, {}).setdefault(entry.run, []).append(entry)
    found = []
    for kinds in trunks.values():
        for runs in filter(None, kinds.values()):
            of_length = sorted(runs.values(), key=_steps, reverse=True)
            here = room(of_length[0][0].config)
            uneven = _uneven(list(map(_steps, of_length)), here)
            found += [_group([run], 1) for run in of_length[:uneven]]
            together = of_length[uneven:]
            if together:
                size = math.ceil(len(together) / math.ceil(len(together) / here.runs))
                sets = here.sets(min(len(together), here.runs))
                size = min(here.runs, math.ceil(size / sets) * sets)
                found += [_group(together[first : first + size], size) for first in range(0, len(together), size)]
    return found


def places(steps: Sequence[int], sets: int, lanes: int) -> list[int]:
    """The place in the compiled program at which each of a group's runs is trained, given the steps it has to do.

    The longest go first, each to the set of devices that has least to do and a lane left.
    """
    busy, taken, found = [0] * sets, [0] * sets, [0] * len(steps)
    for run in sorted(range(len(steps)), key=lambda run: steps[run], reverse=True):
        number = min((n for n in range(sets) if taken[n] < lanes), key=busy.__getitem__)
        found[run] = number * lanes + taken[number]
        busy[number] += steps[run]
        taken[number] += 1
    return found


def _uneven(steps: Sequence[int], room: Room) -> int:
    """How many of the longest runs had better share a batch between all devices, for the rest to be divided evenly."""
    for first in range(len(steps) if room.runs > 1 else 0):
        rest = steps[first:]
        sets = room.sets(min(len(rest), room.runs))
        busy = [0] * sets
        for run, place in enumerate(places(rest, sets, len(rest))):
            busy[place // len(rest)] += rest[run]
        if max(busy) * sets <= _SHARING_COSTS * sum(rest):
            return first
    return len(steps)


def _steps(run: Sequence[Planned]) -> int:
    """What a run has to do, from the entries that are its ends."""
    return max(entry.stop for entry in run) - run[0].start


def _program(config: RunConfig) -> tuple[Any, ...]:
    """What the compiled program depends on: equal for runs that can be a group."""
    model, optimizer = config.model.compiled(), config.optimizer.compiled()
    return model, optimizer, config.branch, config.data.batch_size, config.data.sequence_length


def _group(runs: Sequence[Sequence[Planned]], size: int) -> Group:
    entries = tuple(entry for run in runs for entry in run)
    if len(runs) == 1:
        return Group(entries[-1].label, entries, size)
    words = [re.findall(r"[^/ -]+", entry.label) for entry in entries]
    same = list(itertools.takewhile(lambda place: len(set(place)) == 1, zip(*words, strict=False)))
    common = "-".join(word for word, *_ in same) or entries[0].label
    kind = f" {entries[0].kind}" if entries[0].config.parent else ""
    return Group(f"{common}{kind} x{len(runs)}", entries, size)
