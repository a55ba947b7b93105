"""The formulas of the C kernels in float64, as short as the papers state them."""

from itertools import pairwise

import numpy as np
from scipy.special import expit, logsumexp, ndtr  # logistic function, the normal's Phi

# ---- Norms -------------------------------------------------------------------------------------


def double(*arrays):
    return tuple(None if a is None else np.asarray(a, np.float64) for a in arrays)


def standardise(x, eps, axis):
    mean, var = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
    return (x - mean) / np.sqrt(var + eps)


def standardise_backward(g, x, eps, axis):
    xhat, rstd = standardise(x, eps, axis), 1 / np.sqrt(x.var(axis, keepdims=True) + eps)
    mean = g.mean(axis, keepdims=True)
    return rstd * (g - mean - xhat * (g * xhat).mean(axis, keepdims=True))


def layernorm(x, w, b, eps):
    x, w, b = double(x, w, b)
    return standardise(x, eps, 1) * w + b


def layernorm_backward(dy, x, w, eps):
    dy, x, w = double(dy, x, w)
    dx = standardise_backward(dy * w, x, eps, 1)
    return dx, (dy * standardise(x, eps, 1)).sum(0), dy.sum(0)


def batchnorm(x, w, b, eps):
    x, w, b = double(x, w, b)
    return standardise(x, eps, 0) * w + b


def batchnorm_backward(dy, x, w, eps):
    dy, x, w = double(dy, x, w)
    dx = standardise_backward(dy * w, x, eps, 0)
    return dx, (dy * standardise(x, eps, 0)).sum(0), dy.sum(0)


def rmsnorm(x, w, eps):
    x, w = double(x, w)
    return x / np.sqrt((x**2).mean(1, keepdims=True) + eps) * w


def rmsnorm_backward(dy, x, w, eps):
    dy, x, w = double(dy, x, w)
    r = 1 / np.sqrt((x**2).mean(1, keepdims=True) + eps)
    dx = r * (dy * w - x * r**2 * (dy * w * x).mean(1, keepdims=True))
    return dx, (dy * x * r).sum(0)


def l2norm(x, floor=1e-12):
    (x,) = double(x)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), floor)


def l2norm_backward(dy, x, floor=1e-12):
    dy, x = double(dy, x)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    y = x / np.maximum(length, floor)
    along = np.where(length > floor, (dy * y).sum(-1, keepdims=True), 0)
    return (dy - along * y) / np.maximum(length, floor)


# ---- Activations -------------------------------------------------------------------------------

GELU_A = np.sqrt(2 / np.pi)


def gelu(x):
    (x,) = double(x)
    return x * ndtr(x)


def gelu_slope(x):
    (x,) = double(x)
    return ndtr(x) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)


def gelu_tanh(x):
    (x,) = double(x)
    return 0.5 * x * (1 + np.tanh(GELU_A * (x + 0.044715 * x**3)))


def gelu_tanh_slope(x):
    (x,) = double(x)
    t = np.tanh(GELU_A * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * GELU_A * (1 + 3 * 0.044715 * x**2)


def quick_gelu(x):
    (x,) = double(x)
    return x * expit(1.702 * x)


def quick_gelu_slope(x):
    (x,) = double(x)
    s = expit(1.702 * x)
    return s + 1.702 * x * s * (1 - s)


# ---- Attention ---------------------------------------------------------------------------------


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def split_heads(qkv, heads):
    (qkv,) = double(qkv)
    return qkv.reshape(len(qkv), 3, heads, -1).transpose(1, 2, 0, 3)


def probabilities(q, k, keys, scale, bias, mask):
    s = scale * q @ k.transpose(0, 2, 1)
    s = s + (0 if bias is None else bias) + (0 if mask is None else mask)
    s[..., keys:] = -np.inf
    return softmax(s)


def attention(qkv, heads, keys, scale, bias, mask):
    q, k, v = split_heads(qkv, heads)
    o = probabilities(q, k, keys, scale, *double(bias, mask)) @ v
    return o.transpose(1, 0, 2).reshape(len(qkv), -1)


def attention_backward(dout, qkv, heads, keys, scale, bias, mask):
    q, k, v = split_heads(qkv, heads)
    (dout,) = double(dout)
    do = dout.reshape(len(qkv), heads, -1).transpose(1, 0, 2)
    p = probabilities(q, k, keys, scale, *double(bias, mask))
    dp = do @ v.transpose(0, 2, 1)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True))
    dqkv = scale * ds @ k, scale * ds.transpose(0, 2, 1) @ q, p.transpose(0, 2, 1) @ do
    return np.stack(dqkv).transpose(2, 0, 1, 3).reshape(len(qkv), -1), ds


# ---- Moves of the audio tower ------------------------------------------------------------------


def split_windows(grid, window):
    """(side, side) -> (windows, window^2), as Swin's window_partition."""
    across = len(grid) // window
    cut = grid.reshape(across, window, across, window).transpose(0, 2, 1, 3)
    return cut.reshape(across**2, window**2)


def window_index(side, window, shift):
    grid = np.arange(side * side).reshape(side, side)
    return split_windows(np.roll(grid, (-shift, -shift), (0, 1)), window).reshape(-1)


def window_mask(side, window, shift):
    """Swin's SW-MSA mask: regions are numbered on the rolled grid, pairs across them lose 100."""
    region = np.zeros((side, side))
    if shift > 0:
        bands = slice(0, -window), slice(-window, -shift), slice(-shift, None)
        for i, rows in enumerate(bands):
            for j, columns in enumerate(bands):
                region[rows, columns] = 3 * i + j
    of = split_windows(region, window)
    return np.where(of[:, :, None] == of[:, None, :], 0.0, -100.0)


def fold(spectrogram, spec_size):
    """(frames, mels) -> picture, as LAION's reshape_wav2img."""
    frames, mels = spectrogram.shape
    ratio = spec_size // mels
    x = spectrogram.T.reshape(mels, ratio, frames // ratio)
    return x.transpose(1, 0, 2).reshape(mels * ratio, frames // ratio)


def patch_index(spec_size, mels, patch):
    picture = fold(np.arange(spec_size**2).reshape(-1, mels), spec_size)
    side = spec_size // patch
    cut = picture.reshape(side, patch, side, patch).transpose(0, 2, 1, 3)
    return cut.reshape(side**2, patch**2)


def keys_kernel(x, a=-0.75):
    """Cubic convolution of Keys (1981) at distance x >= 0."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def stretch_matrix(old, new):
    """(new, old): corners aligned, borders repeated, the source coordinate in float32."""
    step = np.float32(old - 1) / np.float32(new - 1) if new > 1 else np.float32(0)
    at = np.arange(new, dtype=np.float32) * step
    base = np.floor(at)
    w = np.zeros((new, old))
    for k in range(-1, 3):
        tap = np.clip(base.astype(int) + k, 0, old - 1)
        np.add.at(w, (np.arange(new), tap), keys_kernel(np.abs(np.float64(at - base) - k)))
    return w


def relpos_index(window):
    """Swin's relative_position_index."""
    y, x = np.divmod(np.arange(window**2), window)
    dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def relpos(table, window):
    return double(table)[0][relpos_index(window)].transpose(2, 0, 1)


def relpos_backward(dbias, window):
    d = np.zeros(((2 * window - 1) ** 2, len(dbias)))
    np.add.at(d, relpos_index(window), double(dbias)[0].transpose(1, 2, 0))
    return d


T5_STARTS = (*range(8), 8, 12, 16, 23, 32, 46, 64, 91)  # first distance of each of 16 buckets


def t5_buckets(t):
    """(query, key) -> bucket of T5's table of 32, as the paper's code makes them up to 128."""
    right = np.arange(t)[None, :] - np.arange(t)[:, None]
    near = np.searchsorted(T5_STARTS, np.abs(right), "right") - 1
    return near + 16 * (right > 0)


def t5_bias(table, t):
    return double(table)[0][t5_buckets(t)].transpose(2, 0, 1)


def t5_bias_backward(dbias):
    d = np.zeros((32, len(dbias)))
    np.add.at(d, t5_buckets(dbias.shape[1]), double(dbias)[0].transpose(1, 2, 0))
    return d


# ---- Loss, optimizer, scores -------------------------------------------------------------------


def contrastive(a, t, log_scale):
    """(CE(S) + CE(S^T)) / 2 with S = exp(log_scale) a t^T; returns loss, da, dt, dscale."""
    a, t = double(a, t)
    s = np.exp(log_scale) * a @ t.T
    rows, columns = softmax(s), softmax(s.T).T
    loss = -0.5 * np.mean(np.log(np.diag(rows)) + np.log(np.diag(columns)))
    ds = (0.5 * (rows + columns) - np.eye(len(a))) / len(a)
    return loss, np.exp(log_scale) * ds @ t, np.exp(log_scale) * ds.T @ a, (ds * s).sum()


def sight(owner, role, clips):
    """Who sees what, and what is whose positive, (clips, texts); role 1 is own, 2 negative."""
    mine = np.arange(clips)[:, None] == np.asarray(owner)
    return mine | (np.asarray(role) == 0), mine & (np.asarray(role) != 2)


def contrastive_of_many(z, sees, positive):
    """Half of -1/P sum log softmax over what a clip sees, and of -log softmax over clips."""
    to_text = np.where(positive, z - logsumexp(z, axis=1, b=sees, keepdims=True), 0)
    to_audio = np.where(positive, z - logsumexp(z, axis=0, keepdims=True), 0)
    return -0.5 * ((to_text.sum(1) / positive.sum(1)).mean() + to_audio.sum() / positive.sum())


def sigmoid_of_pairs(z, sees, positive):
    return np.logaddexp(0, np.where(positive, -z, z))[sees].sum() / len(z)


def distillation(z, of_teacher):
    def cross(target, x):
        return -(softmax(target) * np.log(softmax(x))).sum(1).mean()

    return 0.5 * (cross(of_teacher, z) + cross(of_teacher.T, z.T))


def adamw(w, m, v, g, step, lr, beta1, beta2, eps, weight_decay, grad_scale=1.0, coupled=False):
    w, m, v, g = double(w, m, v, g)
    g = g * grad_scale + coupled * weight_decay * w
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
    mhat, vhat = m / (1 - beta1**step), v / (1 - beta2**step)
    return w - (not coupled) * lr * weight_decay * w - lr * mhat / (np.sqrt(vhat) + eps), m, v


def class_vectors(prompts, first):
    unit = l2norm(prompts)
    return l2norm(np.stack([unit[a:b].mean(0) for a, b in pairwise(first)]))


def entropy(p):
    return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)


def set_table(first):
    """Prompt of each set (row) for each label (column); short labels start again."""
    sets = np.diff(first).max()
    return np.array([[a + j % (b - a) for a, b in pairwise(first)] for j in range(sets)])


def entropy_weights(cosines, table, scale, steps=10, step=0.5):
    """Weights of sets (sets,) by mirror descent on mean entropy + sum of w log w, from equal."""
    log_weight = np.zeros(len(table))
    in_sets = cosines[:, table]  # (n, sets, labels)
    for _ in range(steps):
        p = softmax(scale * np.einsum("j,njk->nk", softmax(log_weight), in_sets))
        slope = -p * (np.log(p) + entropy(p)[:, None])
        gradient = scale * np.einsum("nk,njk->nj", slope, in_sets).mean(0)
        log_weight = (1 - step) * log_weight - step * gradient
    return softmax(log_weight)


def prompt_weights(cosines, prompts, first, rule, scale):
    """Weights (n, prompts) of each prompt in the score of its label."""
    cosines, prompts = double(cosines, prompts)
    table, groups = set_table(first), list(pairwise(first))

    def folded(sets):  # (n, sets) to (n, prompts)
        weight = np.zeros_like(cosines)
        for j, row in enumerate(table):
            for p in row:
                weight[:, p] += sets[:, j]
        return weight

    def unit(weight):
        parts = [
            weight[:, a:b] / np.linalg.norm(weight[:, a:b] @ prompts[a:b], axis=1, keepdims=True)
            for a, b in groups
        ]
        return np.concatenate(parts, 1)

    ones = np.ones((len(cosines), 1))
    if rule in ("mean_embedding", "mean_logit"):
        mean = np.concatenate([np.repeat(ones / (b - a), b - a, 1) for a, b in groups], 1)
        return mean if rule == "mean_logit" else unit(mean)
    if rule == "max":
        return np.concatenate([np.eye(b - a)[cosines[:, a:b].argmax(1)] for a, b in groups], 1)
    if rule == "logsumexp":
        return np.concatenate([softmax(scale * cosines[:, a:b]) for a, b in groups], 1)
    if rule == "entropy":
        return folded(np.stack([entropy_weights(row[None], table, scale) for row in cosines]))
    if rule == "entropy_batch":
        return folded(ones * entropy_weights(cosines, table, scale))
    certainty = np.exp(-entropy(softmax(scale * cosines[:, table])))
    return unit(folded(certainty / certainty.sum(1, keepdims=True)))


def combine(cosines, prompts, first, rule, scale):
    """Scores (n, labels) in the scale of cosines."""
    cosines, prompts = double(cosines, prompts)
    groups = list(pairwise(first))
    if rule == "logsumexp":
        parts = [np.exp(scale * cosines[:, a:b]).mean(1) for a, b in groups]
        return np.log(np.stack(parts, 1)) / scale
    weighted = prompt_weights(cosines, prompts, first, rule, scale) * cosines
    return np.stack([weighted[:, a:b].sum(1) for a, b in groups], 1)


def top_k(scores, k):
    """Indices of the k best of each row, best first, equal scores in their order."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def ranks(queries, items, pair):
    """Place of each pair's item in the order of top_k, from 1; 0 for pair -1."""
    queries, items = double(queries, items)
    place = np.argsort(top_k(queries @ items.T, len(items)), axis=1)
    return np.where(pair < 0, 0, np.take_along_axis(place, np.maximum(pair, 0), 1) + 1)
