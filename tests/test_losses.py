"""Losses of several texts a clip, of pairs, of a teacher, and sums of them."""

import numpy as np
import pytest
from closeness import EPSILON, assert_close, f32
from needs import kernels
from test_loss import unit_rows

SHARED, OWN, NEGATIVE = range(3)
ALL = ("contrastive", "sigmoid", "distillation")
# Clips and texts: of one tile, on its edge, over it; more and fewer texts than clips.
SIZES = [(1, 1), (1, 3), (2, 5), (7, 30), (255, 257), (257, 255 + 2), (300, 511), (33, 600)]


def texts_of(rng, clips, texts):
    """Return owners in any order, where each clip has a text, and roles, where that is shared."""
    order = rng.permutation(texts)
    owner = np.concatenate([np.arange(clips), rng.integers(clips, size=texts - clips)])[order]
    role = np.concatenate([np.zeros(clips, int), rng.integers(3, size=texts - clips)])[order]
    return owner, role


def case(rng, clips, texts, c=24, teacher=11):
    owner, role = texts_of(rng, clips, texts)
    return {
        "a": unit_rows(rng, clips, c), "t": unit_rows(rng, texts, c), "owner": owner, "role": role,
        "teacher_a": unit_rows(rng, clips, teacher), "teacher_t": unit_rows(rng, texts, teacher),
        "log_scale": 2.0, "teacher_log_scale": 3.0, "bias": -4.0,
    }  # fmt: skip


def assert_same(got, want, scale, texts):
    terms = max(len(got[1]), texts)
    assert_close(got[0], want[0], magnitude=max(scale, abs(want[0])))
    for x, y in zip(got[1:], want[1:], strict=True):
        assert_close(x, y, terms=terms, magnitude=max(scale**2 / len(got[1]), np.abs(y).max()))


@pytest.mark.oracle
@pytest.mark.parametrize("log_scale", [0.0, np.log(1 / 0.07), np.log(100)], ids="{:.2f}".format)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_losses_match_autograd(rng, name, size, log_scale):
    import loss_formulas

    args = case(rng, *size) | {"log_scale": log_scale}
    want = loss_formulas.losses([(name, 1.0)], **args)
    assert_same(kernels.losses([(name, 1.0)], **args), want, np.exp(log_scale), size[1])


@pytest.mark.oracle
@pytest.mark.parametrize("name", ALL)
def test_losses_without_owners_match_autograd(rng, name):
    import loss_formulas

    args = case(rng, 259, 259) | {"owner": None, "role": None}
    want = loss_formulas.losses([(name, 1.0)], **args)
    assert_same(kernels.losses([(name, 1.0)], **args), want, np.exp(2), 259)


@pytest.mark.oracle
def test_a_sum_of_losses_is_weighted(rng):
    import loss_formulas

    args, terms = case(rng, 19, 40), [("contrastive", 0.5), ("distillation", 2.0), ("sigmoid", 0.1)]
    want = loss_formulas.losses(terms, **args)
    assert_same(kernels.losses(terms, **args), want, np.exp(2), 40)


@pytest.mark.parametrize("name", ALL)
def test_one_term_of_weight_one_is_that_loss(rng, name):
    args = case(rng, 7, 20)
    alone, half = (kernels.losses([(name, w)], **args) for w in (1.0, 0.5))
    for x, y in zip(alone, half, strict=True):
        np.testing.assert_array_equal(np.asarray(x) / 2, y)


@pytest.mark.parametrize("size", [(33, 80), (700, 900)], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_losses_are_the_same_on_any_number_of_threads(rng, name, size):
    args = case(rng, *size, 64)
    one = kernels.losses([(name, 1.0)], **args, threads=1)
    for threads in (2, 3):
        for x, y in zip(one, kernels.losses([(name, 1.0)], **args, threads=threads), strict=True):
            np.testing.assert_array_equal(x, y)


# ---- What each text does -------------------------------------------------------------------------


def two_clips(extra, owner, role, name="contrastive", log_scale=3.0):
    """Return the loss of two clips with a shared text each, and of further texts."""
    a = np.eye(2, 4, dtype=np.float32)
    t = np.float32([[1, 0, 0, 0], [0, 1, 0, 0], *extra])
    return kernels.losses([(name, 1.0)], a, t, log_scale, 0.0, [0, 1, *owner], [0, 0, *role])


@pytest.mark.parametrize("name", ["contrastive", "sigmoid"])
@pytest.mark.parametrize("role", [OWN, NEGATIVE])
def test_a_text_of_its_own_clip_does_not_reach_the_others(name, role):
    """The other clip sees it neither in value nor in gradient, whatever its cosine."""
    for cosine in (-1.0, -0.05, 1.0):
        extra = [[0.0, cosine, 0.0, 0.0]]
        _, da, _, *_ = two_clips(extra, [0], [role], name)
        _, want, _, *_ = two_clips([[0.0, 0.0, 1.0, 0.0]], [0], [role], name)
        seen_by_texts = name == "contrastive" and role == OWN  # text to audio is over all clips
        if not seen_by_texts:
            np.testing.assert_array_equal(da[1], want[1])


def test_a_hidden_negative_costs_nothing():
    """CompA's code multiplies hidden logits by -1e5: a negative one would become a large one."""
    plain = two_clips([], [], [])[0]
    far = two_clips([[-1.0, -0.05, 0.0, 0.0]], [0], [NEGATIVE])[0]
    assert plain <= far < plain + 1e-6


def test_a_tile_of_which_a_clip_sees_nothing_adds_nothing(rng):
    args = case(rng, 3, 600)
    args["owner"], args["role"] = np.zeros((2, 600), int)
    args["owner"][:3], args["role"][3:] = np.arange(3), NEGATIVE  # all of the first clip
    _, da, *_ = kernels.losses([("contrastive", 1.0)], **args)
    few = {key: args[key][:3] for key in ("t", "owner", "role")}
    _, want, *_ = kernels.losses([("contrastive", 1.0)], args["a"], log_scale=2.0, **few)
    assert_close(da[1:], want[1:], terms=3, magnitude=np.exp(4) / 3)


def test_a_negative_near_its_clip_costs():
    plain = two_clips([], [], [])[0]
    near = two_clips([[1.0, 0.0, 0.0, 0.0]], [0], [NEGATIVE])
    assert near[0] > plain + 0.1
    assert near[2][2] @ [1, 0, 0, 0] > 0  # downhill leads it away from the clip


def test_a_second_positive_is_drawn_near():
    loss, _, dt, *_ = two_clips([[0.0, 0.0, 1.0, 0.0]], [0], [OWN])
    assert loss > two_clips([], [], [])[0]
    assert dt[2] @ [1, 0, 0, 0] < 0


def test_captions_that_are_all_shared_ignore_their_order(rng):
    args = case(rng, 5, 15) | {"role": np.zeros(15, int)}
    loss, da, dt, *_ = kernels.losses([("contrastive", 1.0)], **args)
    order = rng.permutation(15)
    args |= {"t": args["t"][order], "owner": args["owner"][order]}
    again, da_again, dt_again, *_ = kernels.losses([("contrastive", 1.0)], **args)
    assert_close(again, loss)
    assert_close(da_again, da, terms=15, magnitude=np.exp(4))
    assert_close(dt_again, dt[order], terms=15, magnitude=np.exp(4))


def test_one_text_a_clip_with_owners_is_the_loss_of_pairs(rng):
    a, t = unit_rows(rng, 300, 24), unit_rows(rng, 300, 24)
    want = kernels.contrastive(a, t, 2.0)
    got = kernels.losses([("contrastive", 1.0)], a, t, 2.0, owner=np.arange(300))
    for x, y in zip(got, [*want, 0.0], strict=True):
        assert_close(x, y, terms=300, magnitude=np.exp(4) / 300)


# ---- Sigmoid -------------------------------------------------------------------------------------


def test_sigmoid_of_one_pair_is_its_logistic_loss():
    a = np.float32([[1, 0]])
    loss, _, _, ds, db = kernels.losses([("sigmoid", 1.0)], a, a, np.log(10), -10.0)
    assert_close(loss, np.log(2))
    assert_close(db, -0.5, magnitude=10)
    assert_close(ds, -5, magnitude=100)


@pytest.mark.parametrize("bias", [-1000.0, 1000.0])
def test_sigmoid_does_not_overflow(rng, bias):
    a = unit_rows(rng, 5, 6)
    found = kernels.losses([("sigmoid", 1.0)], a, -a, np.log(100), bias)
    assert all(np.isfinite(x).all() for x in found)


# ---- Distillation --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 4), (257, 300)], ids=str)
def test_a_student_like_its_teacher_has_nothing_to_learn(rng, size):
    a, t = unit_rows(rng, size[0], 8), unit_rows(rng, size[1], 8)
    loss, da, dt, ds, _ = kernels.losses(
        [("distillation", 1.0)], a, t, 2.0, owner=np.arange(size[1]) % size[0], teacher_a=a,
        teacher_t=t, teacher_log_scale=2.0,
    )  # fmt: skip
    assert loss > 0  # the teacher's entropy
    assert not np.any([*da.ravel(), *dt.ravel(), ds])


def test_a_teacher_may_have_any_width(rng):
    args = case(rng, 6, 9, teacher=1)
    assert np.isfinite(kernels.losses([("distillation", 1.0)], **args)[0])


# ---- Not finite ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["a", "t", "teacher_a", "teacher_t"])
@pytest.mark.parametrize("name", ALL)
def test_nan_passes_through(rng, name, place):
    args = case(rng, 5, 9)
    args[place][-1, 3] = np.nan
    args["role"][-1] = SHARED
    loss, da, dt, *_ = kernels.losses([(name, 1.0)], **args)
    read = name == "distillation" or not place.startswith("teacher")
    assert np.isnan(loss) == read
    assert np.isnan(da).any() == np.isnan(dt).any() == read


def test_nan_among_hidden_texts_passes_through(rng):
    """A row of a tile of which all is hidden but what is not a number."""
    args = case(rng, 3, 600)
    args["role"][:] = np.where(np.arange(600) < 300, SHARED, NEGATIVE)
    args["owner"][:] = np.where(np.arange(600) < 300, np.arange(600) % 3, 1)
    args["owner"][-1], args["t"][-1] = 0, np.nan
    assert np.isnan(kernels.losses([("contrastive", 1.0)], **args)[0])


# ---- Refused -------------------------------------------------------------------------------------

REFUSED = {
    "a clip without a positive": ({"owner": [0, 0, 2]}, "clip 1 has no positive text"),
    "only negatives": ({"role": [0, NEGATIVE, 0]}, "clip 1 has no positive text"),
    "no such clip": ({"owner": [0, 3, 2]}, r"owner\[1\]: expected a clip from 0 to 2, got 3"),
    "a negative clip": ({"owner": [0, -1, 2]}, r"owner\[1\]: expected a clip from 0 to 2, got -1"),
    "no such role": ({"role": [0, 3, 0]}, r"role\[1\]: expected 0 to 2, got 3"),
    "roles without owners": ({"owner": None}, "owner: 3 texts of 3 clips, with or without roles"),
    "owners that are too few": ({"owner": [0, 1]}, r"owner: expected shape \(3,\), got \(2,\)"),
    "roles that are too few": ({"role": [0]}, r"role: expected shape \(3,\), got \(1,\)"),
    "no teacher": ({"teacher_t": None}, "distillation needs the embeddings of a teacher"),
    "a teacher of other texts": (
        {"teacher_t": np.ones((4, 11))},
        r"teacher_t: expected shape \(3, 11\), got \(4, 11\)",
    ),
    "another width": ({"t": np.ones((3, 5))}, r"t: expected shape \(3, 24\), got \(3, 5\)"),
    "no terms": ({"terms": []}, "expected 1 to 4 terms, got 0"),
    "too many terms": ({"terms": [("sigmoid", 1.0)] * 5}, "expected 1 to 4 terms, got 5"),
    "an unknown loss": ({"terms": [("hinge", 1.0)]}, "unknown loss hinge"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_losses_refuse(rng, name):
    changes, message = REFUSED[name]
    args = case(rng, 3, 3) | {"owner": [0, 1, 2], "role": [0, 0, 0]}
    with pytest.raises(ValueError, match=message):
        kernels.losses(**{"terms": [("distillation", 1.0)]} | args | changes)


def test_losses_refuse_an_empty_batch(rng):
    with pytest.raises(ValueError, match="batch is empty"):
        kernels.losses([("sigmoid", 1.0)], f32(rng, 0, 4), f32(rng, 0, 4), 1.0)


def test_a_negative_scale_of_logits_is_no_trap(rng):
    """Temperatures far below 1 still give a softmax that is nearly even."""
    a = unit_rows(rng, 6, 5)
    loss = kernels.losses([("contrastive", 1.0)], a, a, -20.0, owner=np.arange(6))[0]
    assert_close(loss, np.log(6), magnitude=1 + EPSILON)
