"""seqio tasks and mixtures over our corpora: the only file that imports seqio and TensorFlow.

Only preparation imports it. seqio tokenises; cleaning and the split come before, shards and order after.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scaling.config import DataConfig, TaskConfig, VocabularyConfig
from scaling.data.shards import BYTE_OFFSET, task_id
from scaling.errors import UserError


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Holds back what C++ writes to file descriptor 2 on import, about devices that tokenising does not use."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


try:
    with _without_chatter():
        import seqio
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # tokenising must not claim the memory of a training process
except ImportError as missing:
    raise UserError(
        f"preparing a task needs {missing.name}, which is not installed: install windtunnel[data]"
    ) from missing

FEATURE = "targets"
TextsBySplit = Mapping[str, Callable[[], Iterable[str]]]


def vocabulary(config: VocabularyConfig, model_file: Path) -> seqio.Vocabulary:
    """The vocabulary; a SentencePiece one is read from `model_file`.

    Raises:
        UserError: its padding, end-of-document and unknown ids are not seqio's 0, 1, 2.
    """
    if config.kind == "bytes":
        return seqio.ByteVocabulary()
    vocab = seqio.SentencePieceVocabulary(str(model_file))
    special = (vocab.tokenizer.pad_id(), vocab.tokenizer.eos_id(), vocab.tokenizer.unk_id())
    if special != (0, 1, 2):
        raise UserError(
            f"vocabulary {config.model_file}: ids of padding, end and unknown are {special} and must be (0, 1, 2): "
            f"train it with pad_id=0, eos_id=1, unk_id=2"
        )
    return vocab


def train_sentencepiece(texts: Iterable[str], size: int) -> bytes:
    """Trains a BPE that gives back code exactly: nothing normalised, white space kept, bytes as fallback.

    Args:
        texts: training text; it is read line by line, for no piece holds a newline.
        size: number of pieces, the 3 special and 256 byte pieces among them.

    Returns:
        The model file's bytes.

    Raises:
        UserError: the text is too small for so many pieces, or the size too small for any text.
    """
    import sentencepiece

    lines = (line for text in texts for line in text.split("\n") if line)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            byte_fallback=True,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=["\n", "\t"],
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"vocabulary of size {size}: {str(error).splitlines()[0]}; choose another size") from error
    return model.getvalue()


def token_bytes(vocab: seqio.Vocabulary) -> np.ndarray:
    """int64 [vocab_size]: how many UTF-8 bytes of text each token id stands for; 0 for special ids."""
    if isinstance(vocab, seqio.ByteVocabulary):
        return np.concatenate([np.zeros(BYTE_OFFSET, np.int64), np.ones(256, np.int64)])
    pieces = vocab.tokenizer
    counts = np.zeros(pieces.get_piece_size(), np.int64)
    for token in range(len(counts)):
        if pieces.is_byte(token):
            counts[token] = 1
        elif not (pieces.is_control(token) or pieces.is_unknown(token)):
            counts[token] = len(pieces.id_to_piece(token).replace("▁", " ").encode())
    return counts


def build_task(task: TaskConfig, vocab: seqio.Vocabulary, texts: TextsBySplit) -> seqio.Task:
    """The seqio task: documents in order, tokenised, each with an end-of-document token."""

    def dataset(split: str, shuffle_files: bool = False, seed: int | None = None) -> tf.data.Dataset:
        del shuffle_files, seed  # order is decided at reading, by `scaling.data.loader`
        return tf.data.Dataset.from_generator(
            lambda: ({FEATURE: text} for text in texts[split]()),
            output_signature={FEATURE: tf.TensorSpec((), tf.string)},
        )

    return seqio.Task(
        task_id(task).replace("-", "_"),  # seqio's names know no hyphen
        source=seqio.FunctionDataSource(dataset, splits=tuple(texts)),
        output_features={FEATURE: seqio.Feature(vocab, add_eos=True)},
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        shuffle_buffer_size=None,
    )


def tokenized(task: seqio.Task, split: str) -> Iterator[np.ndarray]:
    """int32 token ids of each document of a split, in order."""
    dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False)
    for example in dataset.as_numpy_iterator():
        yield np.asarray(example[FEATURE], np.int32)


def build_mixture(name: str, data: DataConfig, tasks: Mapping[str, seqio.Task]) -> seqio.Mixture:
    """The seqio mixture of a data config, for who wants to read it with seqio; `tasks` by `task_id`."""
    return seqio.Mixture(name, [(tasks[task_id(part.task)], part.rate) for part in data.mixture])


def versions() -> dict[str, Any]:
    """Versions of the libraries that decide token ids."""
    import sentencepiece

    return {
        "seqio": seqio.__version__,
        "tensorflow": tf.__version__,
        "sentencepiece": sentencepiece.__version__,
    }
