"""Gradients of the text towers, against autograd of transformers' in float64.

A loss that is linear in the embeddings of texts asks for the whole way back: pooling, final norm,
blocks, biases that layers share, embedding and its tables.
"""

import numpy as np
import pytest
from models import AUDIO, decibels, draw_parameter
from test_text_towers import KINDS_OF_TOWERS, LENGTHS, texts, with_values

from reclap.runtime.libraries import core

TINY = AUDIO | {"embed": 4, "depths": [1], "heads": [1]}
NAMES = [n for n in KINDS_OF_TOWERS if n not in ("minilm", "roberta_hf_eps")]


def whole_model(rng, kind, **settings):
    """Return a model with a tiny audio tower and this text tower, and the text tower's weights."""
    width = kind.config.width
    model = core.Model(TINY, kind.config.to_core() | settings, width, 1, 0, width)
    values = {n: draw_parameter(rng, n, s) for n, s, _ in model.parameters()}
    for name, x in values.items():
        if "layers" in name and name.endswith("qkv.weight") and not kind.config.scaled:
            x[: len(x) // 3] *= width**-0.25
    model.bind(list(values.values()))
    return model, values


def backward(trainer, model, rng, packed, first, dtext, seed=0, step=0):
    """Return the gradients of a loss that is linear in the embeddings of texts."""
    n = len(first) - 1
    mel = decibels(rng, n, 40)
    audio, text = trainer.embed(mel, (packed, first), seed, step)
    trainer.loss(audio, text)
    trainer.backward(np.zeros_like(dtext), dtext, mel, (packed, first), seed, step)
    return text, dict(zip([n for n, _, _ in model.parameters()], trainer.buffers(1), strict=True))


def autograd(kind, values, ids, dtext):
    """Return transformers' gradients in float64, by our names and in our layout."""
    import torch

    tower = with_values(kind, values).double()
    tower.requires_grad_(True)
    pool = kind.config.pool
    for x, g in zip(ids, dtext, strict=True):
        to = kind.config.pad_to if pool == "mean_padded" else len(x)
        padded = np.zeros(max(to, len(x)), np.int64)
        padded[: len(x)] = x
        mask = torch.from_numpy((np.arange(len(padded)) < len(x))[None] + 0)
        out = tower(input_ids=torch.from_numpy(padded)[None], attention_mask=mask)
        state = out.last_hidden_state[0]
        at = {"first": 0, "last": -1, "nonzero": np.count_nonzero(x) - 1}
        y = out.pooler_output[0] if pool == "pooler" else None
        if y is None:
            y = state[at[pool]] if pool in at else state.mean(0)
        (torch.nn.functional.normalize(y, dim=0) @ torch.from_numpy(g.astype(float))).backward()
    grads = {
        n.removeprefix("text_model."): p.grad.numpy() if p.grad is not None else np.zeros(p.shape)
        for n, p in tower.named_parameters()
    }
    return {n: np.asarray(x, np.float64) for n, x in kind.rename(grads).items()}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_text_towers_match_autograd(rng, oracle, name, threads):
    kind = KINDS_OF_TOWERS[name]
    model, values = whole_model(rng, kind)
    ids, packed, first = texts(rng, kind, LENGTHS)
    dtext = rng.standard_normal((len(ids), kind.config.width)).astype(np.float32)
    inside = {n: x for n, x in values.items() if n.startswith("text_branch")}
    want = oracle.sketch(f"text_gradients/{name}", lambda: autograd(kind, inside, ids, dtext))
    _, got = backward(core.Trainer(model, threads), model, rng, packed, first, dtext)
    largest = max(float(np.abs(got[n]).max()) for n in inside)
    assert largest > 0
    for n in inside:
        distance = want.distance(n, got[n])
        assert distance <= 1e-4 or np.abs(got[n]).max() <= 1e-6 * largest, f"{n}: {distance:.2e}"


SOME = ["roberta", "t5", "gpt2"]


def case(name, **settings):
    """Return a model, its batch of texts and a gradient to their embeddings."""
    rng, kind = np.random.default_rng(11), KINDS_OF_TOWERS[name]
    model, _ = whole_model(rng, kind, **settings)
    ids, packed, first = texts(rng, kind, LENGTHS)
    dtext = rng.standard_normal((len(ids), kind.config.width)).astype(np.float32)
    return model, packed, first.astype(np.int32), dtext


@pytest.mark.parametrize("name", SOME)
def test_gradients_are_bitwise_equal_on_any_thread_count(name):
    found = []
    for threads in (1, 2, 3):
        model, *batch = case(name, dropout=0.1)
        rng = np.random.default_rng(0)
        found.append(backward(core.Trainer(model, threads), model, rng, *batch)[1])
    for n, x in found[0].items():
        for other in found[1:]:
            np.testing.assert_array_equal(x, other[n], n)


@pytest.mark.parametrize("name", SOME)
def test_gradient_with_dropout_matches_finite_difference(name):
    model, packed, first, dtext = case(name, dropout=0.3)
    trainer = core.Trainer(model, 2)
    mel = decibels(np.random.default_rng(0), len(dtext), 40)
    _, grads = backward(trainer, model, np.random.default_rng(0), packed, first, dtext, 5, 9)
    rng, kept = np.random.default_rng(1), [x.copy() for x in trainer.buffers(0)]
    names = [n for n, _, _ in model.parameters()]
    for part in ("layers.0.", "layers.2.", "token", "attn.qkv", "mlp"):
        inside = [i for i, n in enumerate(names) if n.startswith("text_branch") and part in n]
        way = {i: rng.standard_normal(kept[i].shape) for i in inside}
        want = sum(float((grads[names[i]] * way[i]).sum()) for i in inside)
        value = []
        for step in (-5e-4, 5e-4):
            for i in inside:
                trainer.buffers(0)[i][...] = kept[i] + step * way[i]
            _, text = trainer.embed(mel, (packed, first), 5, 9)
            value.append(float((text.astype(float) * dtext).sum()))
        for i in inside:
            trainer.buffers(0)[i][...] = kept[i]
        assert (value[1] - value[0]) / 1e-3 == pytest.approx(want, rel=2e-2, abs=2e-2), part


@pytest.mark.parametrize("name", SOME)
def test_pieces_of_a_batch_draw_and_learn_as_the_whole(name):
    model, packed, first, dtext = case(name, dropout=0.3)
    trainer, n = core.Trainer(model, 2), len(dtext)
    mel = decibels(np.random.default_rng(0), n, 40)
    whole, wanted = backward(trainer, model, np.random.default_rng(0), packed, first, dtext, 5, 9)
    wanted = {k: x.copy() for k, x in wanted.items()}
    again, _ = backward(trainer, model, np.random.default_rng(0), packed, first, dtext, 5, 10)
    assert not np.allclose(whole, again, atol=1e-3)  # other draws
    trainer.loss(whole, whole)
    for a, b in ((0, 2), (2, 3), (3, n)):
        ids = packed[first[a] : first[b]], first[a : b + 1] - first[a]
        _, text = trainer.embed(mel[a:b], ids, 5, 9, clip=a)
        np.testing.assert_allclose(text, whole[a:b], atol=1e-5)
        trainer.backward(np.zeros_like(dtext[a:b]), dtext[a:b], mel[a:b], ids, 5, 9, clip=a)
    got = dict(zip(wanted, trainer.buffers(1), strict=True))
    for k, x in wanted.items():
        if k.startswith("text_branch"):
            np.testing.assert_allclose(got[k], x, rtol=1e-3, atol=1e-5 * np.abs(x).max(), err_msg=k)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("part", ["layers.2.", "layers.1.", "token", "relative", "qkv"])
def test_gradients_of_what_learns_are_those_of_all(name, part):
    found = []
    for only in (False, True):
        model, *batch = case(name, dropout=0.1)
        rates = [float(not only or part in n) for n, _, _ in model.parameters()]
        if not any(rates):
            pytest.skip("no such parameter")
        trainer = core.Trainer(model, 2, rates)
        found.append(backward(trainer, model, np.random.default_rng(0), *batch)[1])
    for n, x in found[1].items():
        assert (x is not None) == (part in n)
        if x is not None:
            np.testing.assert_array_equal(x, found[0][n], n)
