"""What becomes of every document of a corpus: dropped, for training, or held out."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable

from scaling.config import TaskConfig
from scaling.data import sources
from scaling.data.duplicates import Duplicates
from scaling.errors import UserError

DROPPED, TRAIN, HELDOUT = 0, 1, 2
SECTION_SIZES = (2048, 65536)  # characters of the smallest and largest section that long texts are cut into


@dataclasses.dataclass(frozen=True)
class Survey:
    """What becomes of every document of a corpus.

    Attributes:
        fates: per document in order, DROPPED, TRAIN or HELDOUT.
        dropped: documents left out, by reason, those that could not be read included.
        units: for TRAIN and HELDOUT, the split units with a document there.
        kept_bytes: UTF-8 bytes of all documents kept.
        section_size: what `sources.documents` has to be called with to give these documents.
        notes: what a person should know.
    """

    fates: bytes
    dropped: dict[str, int]
    units: dict[int, tuple[str, ...]]
    kept_bytes: int
    section_size: int
    notes: tuple[str, ...]


def survey(task: TaskConfig, progress: Callable[[int, int], None]) -> Survey:
    """Decides about every document: too short, a duplicate of an earlier one, for training or held out.

    Duplicates are found before the split and across it, so no held-out document has a twin in training, nor a near
    twin that MinHash finds.
    A corpus of files with too few documents for some to be held out is cut into sections first.

    Args:
        task: the definition.
        progress: called with the number of documents and UTF-8 bytes read so far.

    Raises:
        UserError: an empty corpus, or one that cannot be split.
    """
    whole = _clean(task, progress, section_size=0)
    enough = math.ceil(1 / task.heldout_fraction)
    if len(set(whole.units)) >= enough or task.source.kind != "files":
        return _split(task, whole, ())
    smallest, largest = SECTION_SIZES
    section_size = min(max(whole.kept_bytes // (4 * enough), smallest), largest)
    note = (
        f"{len(set(whole.units))} document(s) are too few to hold some out: cut at blank lines into "
        f"sections of at least {section_size} characters"
    )
    return _split(task, _clean(task, progress, section_size), (note,))


@dataclasses.dataclass(frozen=True)
class _Cleaned:
    """Per document whether it is kept, and its unit (of those kept alone in `units`)."""

    keep: list[bool]
    units: list[str]
    dropped: Counter[str]
    kept_bytes: int
    section_size: int


def _clean(task: TaskConfig, progress: Callable[[int, int], None], section_size: int) -> _Cleaned:
    dropped: Counter[str] = Counter()
    duplicates = Duplicates(task.near_duplicates)
    keep: list[bool] = []
    units: list[str] = []
    read = kept = 0
    for document in sources.documents(task.source, dropped, section_size):
        data = document.text.encode()
        too_long = 0 < task.max_bytes < len(data)
        reason = "too_short" if len(data) < task.min_bytes else "too_long" if too_long else duplicates.check(data)
        keep.append(reason is None)
        if reason is None:
            units.append(document.unit)
            kept += len(data)
        else:
            dropped[reason] += 1
        read += len(data)
        progress(len(keep), read)
    return _Cleaned(keep, units, dropped, kept, section_size)


def _split(task: TaskConfig, cleaned: _Cleaned, notes: tuple[str, ...]) -> Survey:
    heldout = _heldout_units(task, set(cleaned.units))
    unit = iter(cleaned.units)
    fates = bytes(DROPPED if not keep else HELDOUT if next(unit) in heldout else TRAIN for keep in cleaned.keep)
    units = {TRAIN: tuple(sorted(set(cleaned.units) - heldout)), HELDOUT: tuple(sorted(heldout))}
    dropped = dict(sorted(cleaned.dropped.items()))
    return Survey(fates, dropped, units, cleaned.kept_bytes, cleaned.section_size, notes)


def _heldout_units(task: TaskConfig, units: Iterable[str]) -> set[str]:
    """Units whose hash falls below the fraction; at least the one with the smallest hash, and not all."""
    hashes = {unit: sources.unit_interval(unit) for unit in units}
    if len(hashes) < 2:
        raise UserError(
            f"task {task.name!r}: {len(hashes)} document(s) of at least {task.min_bytes} bytes in "
            f"{task.source.glob or 'the corpus'!r}, and a held-out split needs two: bring more text"
        )
    ranked = sorted(hashes, key=lambda unit: (hashes[unit], unit))
    below = sum(value < task.heldout_fraction for value in hashes.values())
    return set(ranked[: min(max(1, below), len(ranked) - 1)])
