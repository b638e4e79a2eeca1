"""Batches: token streams read by position, laid out as a timeline says, prefetched by grain."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

import grain
import numpy as np

from scaling.config import DataConfig
from scaling.data.shards import Prepared, Shards, open_prepared
from scaling.data.timeline import Segment, Timeline, lane_edges, lane_rows, lane_tokens
from scaling.errors import UserError

Batch = dict[str, np.ndarray]


class TokenStream:
    """A task's training tokens without end: its records shuffled anew in every epoch, and read in lanes.

    The order of an epoch is a function of (seed, content digest, epoch), so a lane and a position in it name a
    token for good. Where a lane's stretch of one epoch ends, it goes on with its stretch of the next.
    """

    def __init__(self, shards: Shards, seed: int):
        self.shards = shards
        self.edges = lane_edges(shards.tokens)
        self.lanes = len(self.edges) - 1
        self._seed = seed
        self._key = np.frombuffer(bytes.fromhex(shards.digest), np.uint32).tolist()
        self._epoch = functools.lru_cache(maxsize=3)(self._lay_out)
        self._record = functools.lru_cache(maxsize=2 * self.lanes)(shards.read)

    def _lay_out(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The records of an epoch in order, and where in the epoch each starts (and the last one ends)."""
        seed = np.random.SeedSequence([self._seed, epoch, *self._key])
        order = np.random.Generator(np.random.Philox(seed)).permutation(self.shards.num_records)
        starts = np.zeros(len(order) + 1, np.int64)
        np.cumsum(self.shards.lengths[order], out=starts[1:])
        return order, starts

    def read(self, lane: int, position: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens position .. position+count-1 of a lane.

        Returns:
            tokens int32 [count], and int32 [count] numbering from 1 the records that they lie in.
        """
        tokens = np.empty(count, np.int32)
        segments = np.empty(count, np.int32)
        start, length = int(self.edges[lane]), int(self.edges[lane + 1] - self.edges[lane])
        done = number = 0
        while done < count:
            epoch, offset = divmod(position + done, length)
            order, starts = self._epoch(epoch)
            offset, end = offset + start, start + length
            place = int(np.searchsorted(starts, offset, side="right")) - 1
            inside = offset - int(starts[place])
            here = min(count - done, int(starts[place + 1]) - offset, end - offset)
            number += 1
            tokens[done : done + here] = self._record(int(order[place]))[inside : inside + here]
            segments[done : done + here] = number
            done += here
        return tokens, segments


def open_mixture(data: DataConfig, data_dir: Path, vocab_size: int | None = None) -> dict[str, Prepared]:
    """The prepared tasks of a mixture by task name.

    Args:
        data: the mixture.
        data_dir: where prepared folders lie.
        vocab_size: the model's, to be checked against the shards'.

    Raises:
        UserError: a task is not prepared or damaged, tasks have different vocabularies, or the model has
            another vocabulary size than the shards.
    """
    opened = {part.task.name: open_prepared(part.task, data_dir) for part in data.mixture}
    first, *others = opened.values()
    for other in others:
        if other.manifest.vocabulary_digest != first.manifest.vocabulary_digest:
            raise UserError(
                f"mixture: tasks {first.manifest.task.name!r} and {other.manifest.task.name!r} have different "
                f"vocabularies (of {first.manifest.vocab_size} and {other.manifest.vocab_size} ids): give both "
                f"'bytes', or one the other's vocabulary.model as model_file"
            )
    if vocab_size is not None and vocab_size != first.manifest.vocab_size:
        raise UserError(
            f"model.vocab_size is {vocab_size}, but the shards of task {first.manifest.task.name!r} have "
            f"{first.manifest.vocab_size} token ids: set vocab_size to that"
        )
    return opened


def open_streams(data: DataConfig, data_dir: Path, seed: int, vocab_size: int | None = None) -> dict[str, TokenStream]:
    """The training streams of a mixture by task name; errors as `open_mixture`."""
    opened = open_mixture(data, data_dir, vocab_size)
    return {name: TokenStream(prepared.train, seed) for name, prepared in opened.items()}


def check_budget(timeline: Timeline, stop_step: int, streams: Mapping[str, TokenStream], max_epochs: float) -> None:
    """Raises a UserError if steps up to `stop_step` ask a source for more than `max_epochs` times its tokens."""
    for name, asked in timeline.consumed(stop_step).items():
        there = streams[name].shards.tokens
        if asked > max_epochs * there:
            raise UserError(
                f"task {name}: {asked} tokens are asked by step {stop_step} and its training split has {there}: "
                f"that is {asked / there:.2f} epochs where data.max_epochs is {max_epochs:g}; set max_epochs to "
                f"{np.ceil(100 * asked / there) / 100:g} to allow it, train on less, or bring more text"
            )


@dataclasses.dataclass(frozen=True)
class Stack:
    """Batches of consecutive steps in one dispatch.

    Attributes:
        first_step: the step of the first batch.
        valid: how many batches count; what follows repeats the last of them.
        batch: "tokens" and "segments", int32 [K, B, T+1].
    """

    first_step: int
    valid: int
    batch: Batch


class Loader:
    """Batches of a timeline over its sources' streams, by step and in any order.

    Args:
        streams: by task name, every source of the timeline.
        timeline: what is read when.
    """

    def __init__(self, streams: Mapping[str, TokenStream], timeline: Timeline):
        missing = {name for segment in timeline.segments for name in segment.sources} - set(streams)
        if missing:
            raise UserError(f"data: no shards opened for {', '.join(sorted(missing))}, which the timeline reads")
        self.streams = streams
        self.timeline = timeline

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        """The batch of a step, or some of its rows.

        Returns:
            "tokens" int32 [B, T+1]: inputs and, shifted by one, targets. "segments" int32 [B, T+1]: numbers the
            records within a row from 1; a target in another segment than its input is no continuation of it.
        """
        segment = self.timeline.segment(step)
        B, T = segment.batch_size, segment.sequence_length
        first = (step - segment.start_step) * B
        source, ordinal = (ids[rows] for ids in segment.rows(first, first + B))
        tokens = np.empty((len(source), T + 1), np.int32)
        segments = np.empty_like(tokens)
        for index, name in enumerate(segment.sources):
            mine = np.flatnonzero(source == index)
            places = self._positions(name, segment, ordinal[mine])
            for row, (lane, position) in zip(mine, places, strict=True):
                tokens[row], segments[row] = self.streams[name].read(lane, position, T + 1)
        return {"tokens": tokens, "segments": segments}

    def iterate(
        self, start: int, stop: int, stack: int, rows: slice = slice(None), prefetch: int = 2
    ) -> Iterator[Stack]:
        """Batches of steps start .. stop-1 in stacks, read ahead in a thread.

        A stack never crosses into another segment of the timeline, where shapes may change.

        Args:
            start: the first step.
            stop: the step after the last.
            stack: K, steps per stack; one with fewer is padded by its last batch.
            rows: which rows of every batch, for one host of several.
            prefetch: stacks read ahead.
        """
        stacks = _Stacks(self, start, stop, stack, rows)
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
        yield from grain.MapDataset.source(stacks).to_iter_dataset(options)

    def _positions(self, name: str, segment: Segment, ordinals: np.ndarray) -> Iterator[tuple[int, int]]:
        """Lane and position in the lane where each of a source's rows in a segment starts."""
        lanes = self.streams[name].lanes
        earlier = self.timeline.history(segment.start_step).get(name, ())
        first = sum(rows for rows, _ in earlier)
        base = lane_tokens(earlier, lanes) - segment.sequence_length * lane_rows(first, lanes)
        turn, lane = np.divmod(first + ordinals, lanes)
        yield from zip(lane.tolist(), (base[lane] + segment.sequence_length * turn).tolist(), strict=True)


class _Stacks:
    """The stacks of a range of steps as a grain source, item by item."""

    def __init__(self, loader: Loader, start: int, stop: int, stack: int, rows: slice):
        self._loader, self._stack, self._rows = loader, stack, rows
        edges = [s.start_step for s in loader.timeline.segments if start < s.start_step < stop]
        self._spans = [
            (first, min(first + stack, end))
            for begin, end in zip([start, *edges], [*edges, stop], strict=True)
            for first in range(begin, end, stack)
        ]

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Stack:
        first, last = self._spans[index]
        batches = [self._loader.batch(step, self._rows) for step in range(first, last)]
        batches += batches[-1:] * (self._stack - len(batches))
        return Stack(first, last - first, {key: np.stack([b[key] for b in batches]) for key in batches[0]})
