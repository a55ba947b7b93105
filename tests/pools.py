"""Pools of processes that embed sounds; the program of test_forks.py.

``python pools.py KIND FOLDER SOUND``: a pool of multiprocessing (fork, forkserver, spawn) or the
workers of a torch DataLoader, started while a thread of the parent embeds.
"""

import multiprocessing
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

import numpy as np

import reclap

STUCK = 100.0  # seconds after which a process counts as hanging

model: reclap.Model | None = None


def embed(folder: str, sound: str) -> np.ndarray:
    """Embed with the parent's model where there is one, as after a fork, or with one of our own."""
    global model
    model = model or reclap.load(folder, threads=2)
    return model.embed_audio([sound])[0]


class Sounds:
    """What a DataLoader takes for a dataset."""

    def __init__(self, folder: str, sound: str) -> None:
        self.item = folder, sound

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> np.ndarray:
        return embed(*self.item)


def rows(kind: str, folder: str, sound: str) -> Iterable[np.ndarray]:
    """Yield the sound's embedding from different processes."""
    if kind == "dataloader":
        import torch.utils.data

        loader = torch.utils.data.DataLoader(
            Sounds(folder, sound), batch_size=None, num_workers=2, timeout=STUCK
        )
        yield from (x.numpy() for x in loader)
        return
    context = multiprocessing.get_context(kind)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        for job in [pool.submit(embed, folder, sound) for _ in range(4)]:
            yield job.result(STUCK)


def main(kind: str, folder: str, sound: str) -> None:
    """Compare with what this process embeds."""
    want, ended = embed(folder, sound), threading.Event()

    def loop() -> None:
        while not ended.is_set():
            embed(folder, sound)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        for row in rows(kind, folder, sound):
            np.testing.assert_array_equal(row, want)
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
