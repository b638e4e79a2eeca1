"""What a run is, as frozen data: the mathematics of training, and apart from it how it is executed.

A `RunConfig` holds what decides a run's numbers and nothing else: it goes into the run's identity together
with the digests of the shards it reads. Where and how fast it runs is an `ExecutionConfig`, recorded in every
row and never part of the identity. Both travel as JSON; a key that no field has is an error.
"""

import dataclasses
import json
from typing import Any, Literal

import cattrs

from models.config import LEFT_OUT_AT_DEFAULT, ModelConfig
from scaling.errors import UserError


@dataclasses.dataclass(frozen=True)
class KeyValueConfig:
    """Generated text of key-value pairs, some written twice (`scaling.data.key_value`).

    Attributes:
        documents: how many.
        bytes: of a document, and the rest of its last line.
        shortest: if not 0, documents are of all sizes from this to `bytes`, as many of each scale: in short ones there
            is little to choose from, which is where a model begins to learn.
        repeats: share of the pairs that repeat one further up in the document.
        filler: share of lines that are of the standard library, not pairs: every document draws its own between 0 and
            this. They come from modules that no held-out split of a fifth or less holds.
        key_letters: letters of a key; a document has at most 26^key_letters of them.
        seed: of everything drawn.
    """

    documents: int
    bytes: int
    shortest: int = 0
    repeats: float = 0.5
    filler: float = 0.0
    key_letters: int = 2
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """Tests of finding again what was written further up, on generated text of bytes (`scaling.data.key_value`).

    Needles lie in held-out text of the evaluation's first task.

    Attributes:
        lengths: T of the rows, each tested by itself.
        rows: of each length and test.
        depths: questions of a row, about pairs at so many even depths.
        key_letters: letters of a key.
        seed: of everything drawn.
    """

    lengths: tuple[int, ...]
    rows: int = 16
    depths: int = 8
    key_letters: int = 2
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class SourceConfig:
    """Where raw text comes from.

    Attributes:
        kind: "python_stdlib" (source code of the running interpreter's standard library, no download),
            "files" (everything that `glob` matches) or "key_value" (generated text).
        glob: for "files": a glob of .txt, .jsonl[.gz|.zst], .parquet or .zip files.
        text_key: for .jsonl and .parquet: the field that holds the text.
        key_value: for "key_value": what is generated.
        domain: the name under which losses on this text are reported.
    """

    kind: Literal["python_stdlib", "files", "key_value"]
    domain: str
    glob: str = ""
    text_key: str = "text"
    key_value: KeyValueConfig | None = dataclasses.field(default=None, metadata=LEFT_OUT_AT_DEFAULT)


@dataclasses.dataclass(frozen=True)
class VocabularyConfig:
    """How text becomes tokens.

    Attributes:
        kind: "bytes" (seqio's ByteVocabulary: 3 special ids, then the 256 byte values) or "sentencepiece" (a
            BPE trained on the task's own training split, with byte fallback).
        size: for "sentencepiece": number of pieces to train.
        model_file: for "sentencepiece": an existing model to use instead of training one, such as another
            task's `vocabulary.model`, so that both can be mixed.
    """

    kind: Literal["bytes", "sentencepiece"] = "bytes"
    size: int = 0
    model_file: str = ""


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """A corpus made trainable: source, vocabulary, split and cleaning. The definition, never the content.

    Attributes:
        name: the task's name, a file name too.
        source: where its text comes from.
        vocabulary: how it is tokenised.
        record_tokens: a document is stored in slices of at most this many tokens; slices are what is shuffled.
        heldout_fraction: share of the split units (documents; top-level modules for the standard library) whose
            hash puts them in the held-out split.
        near_duplicates: Jaccard similarity of 5-word shingles (MinHash) above which the later document is
            dropped; 1 drops exact duplicates only.
        min_bytes: shorter documents are dropped and counted.
        max_bytes: longer documents are dropped and counted; 0 drops none. With `min_bytes`, a bucket of lengths.
    """

    name: str
    source: SourceConfig
    vocabulary: VocabularyConfig = VocabularyConfig()
    record_tokens: int = 1024
    heldout_fraction: float = 0.05
    near_duplicates: float = 0.8
    min_bytes: int = 64
    max_bytes: int = dataclasses.field(default=0, metadata=LEFT_OUT_AT_DEFAULT)


@dataclasses.dataclass(frozen=True)
class MixtureComponent:
    """One task of a mixture and the share of rows drawn from it (rates are normalised to sum 1)."""

    task: TaskConfig
    rate: float = 1.0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What a segment of training reads.

    Attributes:
        mixture: tasks with their rates; all share one vocabulary.
        sequence_length: T, tokens per row.
        batch_size: B, rows per step.
        max_epochs: how often a source may be read in full before asking for more is an error.
    """

    mixture: tuple[MixtureComponent, ...]
    sequence_length: int
    batch_size: int
    max_epochs: float = 1.0

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one optimiser step reads: B T."""
        return self.sequence_length * self.batch_size


DecayShape = Literal[
    "exponential", "linear", "cosine", "one_minus_sqrt", "square", "mirror_cosine", "megatron", "cosine_loop"
]


@dataclasses.dataclass(frozen=True)
class DecayConfig:
    """The D of WSD: how the learning rate falls from its stable value, over `steps` steps from `start`.

    Attributes:
        start: first step of the decay.
        steps: its length.
        shape: one of the shapes of `scaling.schedules`.
        final: the fraction of the stable rate that the shape ends at.
        half_life: for "exponential" alone: steps in which the rate halves (`final` is then not used).
    """

    start: int
    steps: int
    shape: DecayShape = "one_minus_sqrt"
    final: float = 0.0
    half_life: float = 0.0


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over steps: linear warm-up, constant, and then (if `decay` is given) a decay.

    A trunk has no decay. A cosine run is one whose cosine decay starts where the warm-up ends.
    """

    peak: float
    warmup_steps: int
    decay: DecayConfig | None = None


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (or Muon for hidden matrices with AdamW for the rest) with muP learning-rate groups.

    Defaults: MiniCPM's training engine (reference page, 1.2): betas .9/.95, weight decay .1 on matrices, clip 1.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def compiled(self) -> "OptimizerConfig":
        """The optimiser that programs are compiled for: what enters them as data is at its default.

        Runs that differ in nothing but `weight_decay` and `clip_norm` share one program.
        """
        defaults = OptimizerConfig
        return dataclasses.replace(self, weight_decay=defaults.weight_decay, clip_norm=defaults.clip_norm)


@dataclasses.dataclass(frozen=True)
class Parent:
    """The checkpoint that a branch leaves: a run's id and the step (number of updates done)."""

    run: str
    step: int


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The mathematics of one run. A trunk has no parent; a branch has one, and its steps count on from there.

    Attributes:
        branch: how the parent's state becomes this run's first state: a name of `scaling.branches`; "" for a
            run without parent.
        seed: of parameter initialisation and data order.
    """

    model: ModelConfig
    data: DataConfig
    schedule: ScheduleConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    seed: int = 0
    parent: Parent | None = None
    branch: str = ""


@dataclasses.dataclass(frozen=True)
class ExecutionConfig:
    """How runs are computed. Changes last digits at most; recorded as the execution fingerprint.

    Attributes:
        devices: devices that share a batch; 0 takes all there are.
        microbatches: pieces in which a device works through its share of a batch, gradients summed; 0 decides
            by device (on CPU so that activations stay in a core's cache).
        steps_per_dispatch: optimiser steps per call into the compiled program.
        unroll: layers unrolled in the scan over layers; 0 decides by device (all on CPU up to 12, else 1).
        remat: "none", or "block" to recompute each block's activations in the backward pass.
        runs_per_group: runs of one size that train as one program, at most; 0 decides by device and size, 1 trains
            every run alone.
        run_axis: how a device works on the runs of a group: one after another ("map", with the bits of a run alone) or
            side by side ("vmap", faster where one run does not fill the device); "auto" is map on CPU, else vmap.
    """

    devices: int = 0
    microbatches: int = 0
    steps_per_dispatch: int = 32
    unroll: int = 0
    remat: Literal["none", "block"] = "none"
    runs_per_group: int = 0
    run_axis: Literal["auto", "map", "vmap"] = "auto"


_converter = cattrs.Converter(forbid_extra_keys=True)


def _number(value: Any, kind: Any) -> Any:
    """A number of this kind and no other: cattrs by itself would make an int of 3.7 and of a bool."""
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"{value!r} is not {kind.__name__}")
    return kind(value)


for _kind in (int, float, bool):
    _converter.register_structure_hook(_kind, _number)


def _one_or_many(value: Any, kind: Any) -> str | tuple[str, ...]:
    """A word, or a list of words."""
    del kind
    many = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(word, str) for word in many):
        raise ValueError(f"{value!r} is neither a word nor a list of words")
    return value if isinstance(value, str) else tuple(many)


_converter.register_structure_hook(str | tuple[str, ...], _one_or_many)


def to_json(config: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON data; a field marked `LEFT_OUT_AT_DEFAULT` is left out at its default."""
    plain: dict[str, Any] = _plain(config)
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        content = {field: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {
            field.name: _plain(inner)
            for field, inner in content.items()
            if field.metadata != LEFT_OUT_AT_DEFAULT or inner != field.default
        }
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return type(value)(map(_plain, value)) if isinstance(value, list | tuple) else value


def from_json[T](cls: type[T], data: Any) -> T:
    """A config dataclass from plain JSON data.

    Raises:
        UserError: unknown or missing key, or a value of the wrong kind; names the place.
    """
    try:
        return _converter.structure(data, cls)
    except Exception as error:  # cattrs raises an exception group that only it can put in words
        problems = "; ".join(cattrs.transform_error(error, path=cls.__name__, format_exception=_in_words))
        raise UserError(f"config: {problems}") from error


def _in_words(error: BaseException, kind: type | None) -> str:
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        known = ", ".join(field.name for field in dataclasses.fields(error.cl))
        return f"unknown key {', '.join(sorted(error.extra_fields))} (keys of {error.cl.__name__}: {known})"
    if isinstance(error, KeyError):
        return f"key {error} is missing"
    if isinstance(error, TypeError | AttributeError):
        return cattrs.v.format_exception(error, kind)
    return str(error)


def canonical(data: Any) -> str:
    """The one JSON text of some data, for hashing: sorted keys, no spaces, no NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
