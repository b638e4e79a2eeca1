"""Corpora, tasks, shards and the order in which training reads them.

Importing this package or `shards`, `timeline`, `loader`, `heldout` loads neither seqio nor TensorFlow: those
belong to `tasks`, which only `prepare` imports.
"""
