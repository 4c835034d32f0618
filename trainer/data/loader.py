"""Batches made beside the training, by processes of their own."""

from __future__ import annotations

import signal
from typing import Any

from torch.utils.data import DataLoader, Dataset, Sampler


class _Loader(DataLoader[Any]):
    """Its workers know nothing of Ctrl-C, which a terminal sends to all of a run's processes.

    The run ends when its step is done, and the batches of a worker that has ended before cannot be read.
    """

    def __iter__(self) -> Any:
        # What is ignored here when they are started they ignore from their first moment on.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return super().__iter__()
        finally:
            signal.signal(signal.SIGINT, before)


def loader(samples: Dataset[Any], plan: Sampler[Any], workers: int) -> DataLoader[Any]:
    """The ``samples`` in the batches of ``plan``; with no ``workers`` by the process that asks for them."""
    return _Loader(
        samples,
        batch_sampler=plan,
        num_workers=workers,
        prefetch_factor=8 if workers else None,
        worker_init_fn=_one_thread,
        # A forked child inherits OpenCV's thread pool without its threads and hangs; spawned ones start clean.
        multiprocessing_context="spawn" if workers else None,
    )


def _one_thread(_: int) -> None:
    """A worker warps on one thread; the others belong to the network."""
    import cv2

    cv2.setNumThreads(1)
