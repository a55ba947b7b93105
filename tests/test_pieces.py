"""Batches in pieces: the gradients of the whole batch, whatever is drawn at random."""

import numpy as np
import pytest
from models import AUDIO, TEXT, VIT, decibels, draw_parameter

from reclap.runtime.libraries import core

DRAWS = {"drop_path": 0.2, "dropout": 0.1}
STRIPES = {"time_stripes": 2, "time_width": 9, "freq_stripes": 1, "freq_width": 4}
HTSAT = AUDIO | DRAWS | STRIPES
SAME = 1e-5  # of a tensor's norm


def new_trainer(config, threads=2):
    """Return a trainer of both towers, with everything random switched on."""
    rng = np.random.default_rng(2)
    model = core.Model(config, TEXT | {"dropout": 0.1}, 48, 2, 2, 20)
    values = [draw_parameter(rng, n, s) for n, s, _ in model.parameters()]
    model.bind([np.asarray(x, np.float32) for x in values])
    return core.Trainer(model, threads), [n for n, _, _ in model.parameters()]


def texts(rng, n):
    """Return n texts of 3 to 16 tokens, as the core takes them."""
    first = np.cumsum([0, *rng.integers(3, 17, n)]).astype(np.int32)
    return rng.integers(0, 101, first[-1]).astype(np.int32), first


def in_pieces(trainer, mel, text, owner, role, size, seed=3, step=8):
    """Return loss and gradients of a batch in pieces; texts are in the order of their clips."""
    ids, first = text
    parts = []
    for a in range(0, len(mel), size):
        trainer.moments(mel[a : a + size], first=a == 0)
        c, d = np.searchsorted(owner, [a, a + size])
        part = ids[first[c] : first[d]], first[c : d + 1] - first[c]
        parts.append((mel[a : a + size], part, a, int(c), int(d)))
    made = [trainer.embed(m, x, seed, step, clip=a, caption=c) for m, x, a, c, _ in parts]
    audio, embedded = (np.concatenate(x) for x in zip(*made, strict=True))
    loss, da, dt = trainer.loss(audio, embedded, owner, role)
    for m, x, a, c, d in parts:
        trainer.backward(da[a : a + size], dt[c:d], m, x, seed, step, clip=a, caption=c)
    return loss, [x.copy() for x in trainer.buffers(1)]


def assert_same(names, got, want):
    total = np.sqrt(sum(float((x.astype(float) ** 2).sum()) for x in want))
    for name, a, b in zip(names, got, want, strict=True):
        apart, size = np.linalg.norm(a.astype(float) - b), np.linalg.norm(b.astype(float))
        assert apart <= SAME * max(size, 1e-2 * total), f"{name}: {apart / max(size, 1e-30):.1e}"


@pytest.mark.parametrize(
    ("config", "b", "size"),
    [(HTSAT, 256, 8), (HTSAT, 11, 3), (VIT | DRAWS, 32, 5)],
    ids=["htsat of 256", "htsat", "vit"],
)
def test_batch_in_pieces_has_the_gradients_of_the_whole(config, b, size):
    rng = np.random.default_rng(0)
    owner = np.sort(np.concatenate([np.arange(b), rng.integers(0, b, b // 2)])).astype(np.int32)
    later = np.concatenate([[False], owner[1:] == owner[:-1]])
    role = np.where(later, rng.integers(0, 3, len(owner)), 0).astype(np.int32)
    mel, text = decibels(rng, b, 60), texts(rng, len(owner))
    trainer, names = new_trainer(config)
    found = trainer.gradients(mel, text, 3, 8, owner=owner, role=role)
    want = [x.copy() for x in trainer.buffers(1)]
    loss, got = in_pieces(trainer, mel, text, owner, role, size)
    assert loss == pytest.approx(found["loss"], rel=1e-6)
    assert_same(names, got, want)


def test_step_in_pieces_takes_the_step_of_the_whole():
    """Running statistics are those of the whole batch, too."""
    rng = np.random.default_rng(0)
    mel, text, owner = decibels(rng, 9, 60), texts(rng, 9), np.arange(9, dtype=np.int32)
    values = []
    for size in (9, 2):
        trainer, names = new_trainer(HTSAT)
        if size == 9:
            trainer.step(mel, text, 3, 8, lr=0.1)
        else:
            in_pieces(trainer, mel, text, owner, None, size)
            trainer.update(8, lr=0.1)
        values.append([x.copy() for x in trainer.buffers(0)])
    before = dict(zip(names, new_trainer(HTSAT)[0].buffers(0), strict=True))
    rows = mel.reshape(-1, mel.shape[-1]).astype(float)
    for name, found in (("mean", rows.mean(0)), ("var", rows.var(0, ddof=1))):
        at = names.index(f"audio_branch.bn0.running_{name}")
        want = 0.9 * before[names[at]] + 0.1 * found
        for after in values:
            np.testing.assert_allclose(after[at], want, rtol=1e-5)


def test_moments_end_with_the_step_and_begin_anew():
    rng = np.random.default_rng(0)
    mel, text, owner = decibels(rng, 6, 60), texts(rng, 6), np.arange(6, dtype=np.int32)
    trainer, names = new_trainer(HTSAT)
    other = decibels(rng, 4, 60) + 30
    trainer.moments(other, first=True)
    found = in_pieces(trainer, mel, text, owner, None, 2)[1]
    trainer.update(8, lr=0.0)
    again, _ = new_trainer(HTSAT)
    alone = again.embed(mel[:2], (text[0][: text[1][2]], text[1][:3]), 3, 8)[0]
    assert_same(names, found, in_pieces(again, mel, text, owner, None, 2)[1])
    again.update(8, lr=0.0)
    np.testing.assert_array_equal(
        again.embed(mel[:2], (text[0][: text[1][2]], text[1][:3]), 3, 8)[0], alone
    )


def test_gradients_of_several_batches_add_up_by_their_shares():
    rng = np.random.default_rng(0)
    batches = [(decibels(rng, 5, 60), texts(rng, 5)) for _ in range(3)]
    trainer, names = new_trainer(HTSAT)
    single = []
    for i, (mel, text) in enumerate(batches):
        trainer.gradients(mel, text, 3, i)
        single.append([x.astype(float) for x in trainer.buffers(1)])
    want = [sum(x) / 3 for x in zip(*single, strict=True)]
    for i, (mel, text) in enumerate(batches):
        audio, embedded = trainer.embed(mel, text, 3, i)
        _, da, dt = trainer.loss(audio, embedded, factor=1 / 3, more=i > 0)
        trainer.backward(da, dt, mel, text, 3, i)
    assert_same(names, trainer.buffers(1), want)


def test_calls_out_of_order_are_named():
    rng = np.random.default_rng(0)
    mel, text = decibels(rng, 4, 60), texts(rng, 4)
    trainer, _ = new_trainer(HTSAT)
    unit = np.eye(4, 20, dtype=np.float32)
    with pytest.raises(ValueError, match="more needs the gradients of a batch before"):
        trainer.loss(unit, unit, more=True)
    trainer.loss(unit, unit)
    with pytest.raises(ValueError, match="more needs the gradients of a batch before"):
        trainer.loss(unit, unit, more=True)
    with pytest.raises(ValueError, match="factor: expected"):
        trainer.loss(unit, unit, factor=float("nan"))
    with pytest.raises(ValueError, match="frames, this audio tower takes"):
        trainer.moments(np.zeros((2, 300, 16), np.float32))
    trainer.step(mel, text, 0, 0)
