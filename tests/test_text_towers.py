"""The text tower as BERT, RoBERTa, T5's encoder, GPT-2 and CLIP's text transformer.

Every kind stands against transformers with the same random weights: norms, biases and bias tables
are drawn too, so that nothing hides behind 0 or 1.
"""

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from models import TEXT, new_model, unit

from reclap.checkpoints.families import text_names as families
from reclap.config.towers import KINDS, TextConfig
from reclap.errors import BackendError, FormatError
from reclap.runtime.libraries import core

UNIT = 2e-6  # between unit vectors; five times the worst that was measured
LENGTHS = [77, 1, 5, 64, 2, 20, 33, 1, 76]

SMALL = {"vocab": 101, "width": 48, "layers": 3, "heads": 4, "mlp": 80}


def small(preset, **more):
    """Return a published tower's kind at a small size."""
    return dataclasses.replace(TextConfig.preset(preset), **(SMALL | more))


MINILM = TextConfig(vocab=1000)


# ---- Upstream's towers -------------------------------------------------------------------------


def bert(c):
    import transformers

    make = transformers.RobertaConfig if c.position_offset else transformers.BertConfig
    tower = transformers.RobertaModel if c.position_offset else transformers.BertModel
    config = make(
        vocab_size=c.vocab,
        max_position_embeddings=c.positions,
        type_vocab_size=c.types,
        hidden_size=c.width,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        intermediate_size=c.mlp,
        layer_norm_eps=c.eps,
        pad_token_id=max(0, c.position_offset - 1),
    )
    return tower(config, add_pooling_layer=c.pool == "pooler")


def t5(c):
    import transformers

    kind = ("gated-" if c.gated else "") + ("gelu" if c.activation == "gelu_tanh" else "relu")
    config = transformers.T5Config(
        vocab_size=c.vocab,
        d_model=c.width,
        d_kv=c.head_width or c.width // c.heads,
        d_ff=c.mlp,
        num_layers=c.layers,
        num_heads=c.heads,
        relative_attention_num_buckets=c.buckets,
        relative_attention_max_distance=c.max_distance,
        layer_norm_epsilon=c.eps,
        feed_forward_proj=kind,
    )
    return transformers.T5EncoderModel(config)


def gpt2(c):
    import transformers

    config = transformers.GPT2Config(
        vocab_size=c.vocab,
        n_positions=c.positions,
        n_embd=c.width,
        n_layer=c.layers,
        n_head=c.heads,
        n_inner=c.mlp,
    )
    return transformers.GPT2Model(config)


def clip(c):
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=c.vocab,
        max_position_embeddings=c.positions,
        hidden_size=c.width,
        num_hidden_layers=c.layers,
        num_attention_heads=c.heads,
        intermediate_size=c.mlp,
        hidden_act=c.activation,
        eos_token_id=c.vocab - 1,
    )
    return transformers.CLIPTextModel(config)


def draw(rng, kind):
    """Return a model with random weights, and these by our names."""
    width = kind.config.width
    model, values = new_model(rng, None, kind.config.to_core(), width, (0, 0), width)
    if kind.make is t5:  # whose scores are not scaled, so that its queries begin small
        for name in (n for n in values if n.endswith("attn.qkv.weight")):
            queries = values[name][: len(values[name]) // 3]
            queries *= width**-0.25
    return model, values


def with_values(kind, values):
    """Return upstream's tower with these weights.

    What the reader of checkpoints makes of a state dict that holds running numbers tells where each
    of our numbers lies in theirs.
    """
    import torch

    tower = kind.make(kind.config).eval()
    state, sizes = tower.state_dict(), [x.numel() for x in tower.state_dict().values()]
    begins = np.cumsum([0, *sizes[:-1]])
    numbers = {
        name.removeprefix("text_model."): np.arange(at, at + x.numel(), dtype=float).reshape(
            x.shape
        )
        for (name, x), at in zip(state.items(), begins, strict=True)
    }
    flat = np.full(sum(sizes), np.nan, np.float32)
    for name, index in kind.rename(numbers).items():
        flat[np.asarray(index).astype(int)] = values[name]
    for x, at in zip(state.values(), begins, strict=True):
        part = flat[at : at + x.numel()].reshape(x.shape)
        if x.is_floating_point() and not np.isnan(part).any():  # of tied tables one is asked for
            x.copy_(torch.from_numpy(part))
    return tower


@dataclasses.dataclass
class Kind:
    make: Callable[..., Any]
    rename: Callable[..., Any]
    config: TextConfig


KINDS_OF_TOWERS = {
    "minilm": Kind(bert, families.from_bert, MINILM),
    "bert_mean": Kind(bert, families.from_bert, small("bert-base", pool="mean")),
    "bert": Kind(bert, families.from_bert, small("bert-base")),
    "roberta": Kind(bert, families.from_roberta, small("roberta-base")),
    "roberta_hf_eps": Kind(bert, families.from_roberta, small("roberta-base", eps=1e-12)),
    "t5": Kind(t5, families.from_t5, small("flan-t5-large")),
    "t5_real_tokens": Kind(t5, families.from_t5, small("flan-t5-large", pool="mean")),
    "t5_narrow_heads": Kind(t5, families.from_t5, small("flan-t5-large", head_width=8)),
    "t5_v1_0": Kind(
        t5, families.from_t5, small("flan-t5-large", gated=False, activation="relu", pad_to=90)
    ),
    "gpt2": Kind(gpt2, families.from_gpt2, small("gpt2")),
    "gpt2_last": Kind(gpt2, families.from_gpt2, small("gpt2", pool="last")),
    "clip": Kind(clip, families.from_clip, small("clip-text")),
    "clip_gelu": Kind(clip, families.from_clip, small("clip-text", activation="gelu")),
}
FULL = {
    "bert-base": Kind(bert, families.from_bert, TextConfig.preset("bert-base")),
    "roberta-base": Kind(bert, families.from_roberta, TextConfig.preset("roberta-base")),
    "flan-t5-large": Kind(t5, families.from_t5, TextConfig.preset("flan-t5-large")),
    "gpt2": Kind(gpt2, families.from_gpt2, TextConfig.preset("gpt2")),
    "clip-text": Kind(clip, families.from_clip, TextConfig.preset("clip-text")),
}


def states(tower, ids, pad_to):
    """Return the last hidden states of one text, padded as T5's users do it."""
    import torch

    padded = np.zeros(max(pad_to, len(ids)), np.int64)
    padded[: len(ids)] = ids
    mask = np.arange(len(padded)) < len(ids)
    with torch.no_grad():
        return tower(
            input_ids=torch.from_numpy(padded)[None],
            attention_mask=torch.from_numpy(mask[None]) + 0,
        )


def upstream(kind, tower, ids):
    """Return upstream's features of one text, pooled as its users pool."""
    pool = kind.config.pool
    out = states(tower, ids, kind.config.pad_to if pool == "mean_padded" else 0)
    x = out.last_hidden_state[0]
    if pool == "pooler" or kind.make is clip:  # CLIP: the state at the first end-of-text token
        return out.pooler_output[0].numpy()
    return {
        "mean": lambda: x.mean(0),
        "mean_padded": lambda: x.mean(0),
        "first": lambda: x[0],
        "last": lambda: x[-1],
        "nonzero": lambda: x[np.count_nonzero(ids) - 1],
    }[pool]().numpy()


def texts(rng, kind, lengths=LENGTHS):
    """Return random texts; CLIP's end with its last id, MS-CLAP's hold a 0 that is no padding."""
    ids = [rng.integers(3, kind.config.vocab - 1, n, dtype=np.int32) for n in lengths]
    for x in ids:
        if kind.make is clip:
            x[-1] = kind.config.vocab - 1
        if kind.make is gpt2 and len(x) > 2:
            x[1] = 0
    return ids, np.concatenate(ids), np.cumsum([0, *map(len, ids)])


# ---- Parity ------------------------------------------------------------------------------------


def differences(rng, oracle, name, kind, lengths=LENGTHS):
    """Return how far unit rows are from upstream's: plain, packed."""
    model, values = draw(rng, kind)
    ids, packed, first = texts(rng, kind, lengths)

    def rows():
        tower = with_values(kind, values)
        return {"rows": unit(np.stack([upstream(kind, tower, x) for x in ids]))}

    want, context = oracle(f"text_tower/{name}", rows)["rows"], core.Context(2)
    plain = model.text(context, packed, first)
    model.pack()
    got = model.text(context, packed, first)
    features = unit(model.text(context, packed, first, features=True))
    assert context.stats()["slow"] == 0
    return [float(np.abs(x - want).max()) for x in (plain, got, features)]


@pytest.mark.parametrize("name", KINDS_OF_TOWERS)
def test_text_tower_matches_transformers(rng, oracle, name):
    assert max(differences(rng, oracle, name, KINDS_OF_TOWERS[name])) <= UNIT


@pytest.mark.parametrize("pad", [0, 1, 4])
def test_padding_tokens_of_roberta_take_their_own_row_and_are_not_counted(rng, oracle, pad):
    """A text may spell ``<pad>``; with a padding token 0 the first token of every text is one."""
    kind = Kind(bert, families.from_roberta, small("roberta-base", position_offset=pad + 1))
    model, values = draw(rng, kind)
    ids = [rng.integers(5, 101, n, dtype=np.int32) for n in (7, 3, 76)]
    for x in ids:
        x[[0, len(x) // 2, -1]] = 0, pad, pad
    packed, first = np.concatenate(ids), np.cumsum([0, *map(len, ids)])
    got = model.text(core.Context(2), packed, first)

    def rows():
        tower = with_values(kind, values)
        return {"rows": unit(np.stack([upstream(kind, tower, x) for x in ids]))}

    want = oracle(f"roberta_padding/{pad}", rows)["rows"]
    np.testing.assert_allclose(got, want, atol=UNIT)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_full_text_tower_matches_transformers(rng, oracle, name):
    assert max(differences(rng, oracle, "full_" + name, FULL[name], [77, 1, 20])) <= UNIT


@pytest.mark.parametrize("name", ["t5", "roberta", "gpt2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "bfloat16x1", "float32x3"])
def test_text_towers_are_close_in_every_type(rng, name, dtype):
    kind = KINDS_OF_TOWERS[name]
    model, values = draw(rng, kind)
    _, packed, first = texts(rng, kind)
    context = core.Context(2)
    want = model.text(context, packed, first)
    try:
        model.pack(dtype=dtype)
    except BackendError as error:
        pytest.skip(str(error))  # a processor without such products
    cosine = np.sum(model.text(context, packed, first) * want, axis=1)
    assert cosine.min() > 0.99
    model = core.Model(None, kind.config.to_core(), kind.config.width, 0, 0, kind.config.width)
    model.bind(list(values.values()))
    model.pack()  # T5's queries apart from keys and values
    for index, x in enumerate(values.values()):
        np.testing.assert_array_equal(model.read(index), x, strict=True)


# ---- Independence ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["roberta", "t5", "gpt2", "clip"])
def test_rows_depend_neither_on_the_batch_nor_on_its_order(rng, name):
    config = KINDS_OF_TOWERS[name].config
    model, _ = new_model(rng, None, config.to_core(), config.width)
    _, ids, first = texts(rng, KINDS_OF_TOWERS[name])
    context = core.Context(2)
    together = model.text(context, ids, first)
    spans = list(pairwise(first))
    for row, (a, b) in zip(together, spans, strict=True):
        alone = model.text(context, ids[a:b], [0, b - a])[0]
        assert np.abs(row - alone).max() <= 1e-6
    back = np.concatenate([ids[a:b] for a, b in spans[::-1]])
    lengths = [b - a for a, b in spans[::-1]]
    reversed_ = model.text(context, back, np.cumsum([0, *lengths]))[::-1]
    assert np.abs(together - reversed_).max() <= 1e-6


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("bert", [2] * 336 + [4] * 32),  # the last layer's few rows make longer chunks than all
        ("gpt2_last", [2] * 336 + [4] * 32),
        ("t5", [74] * 3 + [73] * 2),  # and so do the rows with keys
    ],
)
def test_chunks_may_become_longer_on_the_way(rng, name, lengths):
    kind = KINDS_OF_TOWERS[name]
    model, _ = new_model(rng, None, kind.config.to_core(), kind.config.width)
    _, ids, first = texts(rng, kind, lengths)
    context = core.Context(2)
    for row, (a, b) in zip(model.text(context, ids, first), pairwise(first), strict=True):
        assert np.abs(row - model.text(context, ids[a:b], [0, b - a])[0]).max() <= 1e-6


@pytest.mark.parametrize("name", ["roberta", "t5", "gpt2", "clip"])
def test_rows_are_bitwise_equal_on_any_thread_count(rng, name):
    config = KINDS_OF_TOWERS[name].config
    model, _ = new_model(rng, None, config.to_core(), config.width)
    _, ids, first = texts(rng, KINDS_OF_TOWERS[name])
    one, *more = (model.text(core.Context(n), ids, first) for n in (1, 2, 3))
    for other in more:
        np.testing.assert_array_equal(one, other)


def test_padding_changes_the_mean_of_t5_but_not_its_tokens(rng):
    config = KINDS_OF_TOWERS["t5"].config
    model, values = new_model(rng, None, config.to_core(), config.width)
    ids, context = rng.integers(1, 101, 77), core.Context(1)
    unpadded = dataclasses.replace(config, pool="mean")
    other = core.Model(None, unpadded.to_core(), config.width, 2, 2, 20)
    other.bind(list(values.values()))
    for n, same in ((77, True), (20, False)):
        a, b = (m.text(context, ids[:n], [0, n]) for m in (model, other))
        assert (np.abs(a - b).max() <= 1e-6) == same


# ---- Configurations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("bert-base", 108_891_648),
        ("roberta-base", 124_645_632),
        ("flan-t5-large", 341_231_104),
        ("gpt2", 124_439_808),
        ("clip-text", 63_165_952),
    ],
)
def test_presets_have_the_parameters_of_the_published_models(name, parameters):
    config = TextConfig.preset(name)
    model = core.Model(None, config.to_core(), config.width, 0, 0, config.width)
    sizes = {n: int(np.prod(shape)) for n, shape, _ in model.parameters()}
    assert sum(sizes.values()) - sizes["logit_scale"] == parameters


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="text preset is 'gpt3', expected one of bert-base"):
        TextConfig.preset("gpt3")


def test_defaults_are_bert_with_the_mean_of_tokens():
    assert TextConfig().to_core() == {
        "kind": 0, "vocab": 30522, "positions": 512, "types": 2, "width": 384, "layers": 6,
        "heads": 12, "mlp": 1536, "eps": 1e-12, "pool": 0, "max_tokens": 256, "norm": 0, "place": 0,
        "position": 0, "position_offset": 0, "buckets": 32, "max_distance": 128, "activation": 0,
        "gated": False, "causal": False, "biases": True, "scaled": True, "embed_norm": True,
        "final_norm": False, "head_width": 0, "pad_to": 77, "pad_id": 0, "dropout": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("field", KINDS)
def test_unknown_kinds_are_refused(field):
    with pytest.raises(ValueError, match=rf"^TextConfig\.{field}: expected one of .*, got 'odd'"):
        dataclasses.replace(TextConfig(), **{field: "odd"})
    with pytest.raises(ValueError, match=f"text.{field}: unknown kind 9"):
        core.Model(None, TEXT | {field: 9}, 48, 0, 0, 48)


@pytest.mark.parametrize(
    ("change", "longest"),
    [
        ({"position_offset": 2}, 510),
        ({"position_offset": 2, "position": "none"}, 512),
        ({"pool": "mean_padded"}, 77),
        ({}, 512),
    ],
)
def test_texts_may_be_as_long_as_the_tables_and_the_padding(change, longest):
    config = dataclasses.replace(TextConfig(), **change, max_tokens=longest)
    with pytest.raises(ValueError, match=f"max_tokens is {longest + 1}, expected 3 to {longest}"):
        dataclasses.replace(config, max_tokens=longest + 1)
    model, _ = new_model(np.random.default_rng(0), None, config.to_core() | {"layers": 1}, 384)
    model.text(core.Context(1), np.zeros(longest, np.int32), [0, longest])
    with pytest.raises(ValueError, match=f"{longest + 1} tokens, expected 1 to {longest}"):
        model.text(core.Context(1), np.zeros(longest + 1, np.int32), [0, longest + 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"types": -1}, "text.types: expected 0 to 1048576, got -1"),
        ({"mlp": 0}, "text.mlp: expected 1 to 1048576, got 0"),
        ({"heads": 5}, "text.heads: 5 does not divide the width 48"),
        ({"head_width": -1}, "text.head_width: expected 0 to 16384, got -1"),
        ({"causal": 2}, "text: a switch is 2, expected 0 or 1"),
        ({"position_offset": 77}, "text.position_offset: expected 0 to 76, got 77"),
        ({"position_offset": -1}, "text.position_offset: expected 0 to 76, got -1"),
        ({"position": 1, "buckets": 6}, "text.buckets: 6 buckets to a distance of 128"),
        ({"position": 1, "max_distance": 8}, "text.buckets: 32 buckets to a distance of 8"),
        ({"pool": 4, "pad_to": 78}, "text.pad_to: 78 tokens of id 0"),
        ({"pool": 4, "pad_id": 101}, "text.pad_to: 77 tokens of id 101"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        core.Model(None, TEXT | change, 48, 0, 0, 48)


def test_missing_settings_are_named():
    with pytest.raises(ValueError, match='"max_distance" is missing'):
        core.Model(None, {k: v for k, v in TEXT.items() if k != "max_distance"}, 48, 0, 0, 48)


# ---- Names -------------------------------------------------------------------------------------


def state_of(name):
    kind = KINDS_OF_TOWERS[name]
    state = kind.make(kind.config).state_dict()
    return {k.removeprefix("text_model."): v.numpy() for k, v in state.items()}


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("rename", "name", "extra"),
    [
        (families.from_roberta, "roberta", ["embeddings.position_ids"]),
        (families.from_bert, "bert", ["embeddings.position_ids", "cls.predictions.bias"]),
        (families.from_gpt2, "gpt2", ["h.0.attn.bias", "h.2.attn.masked_bias", "lm_head.weight"]),
        (families.from_t5, "t5", ["decoder.final_layer_norm.weight", "lm_head.weight"]),
        (families.from_clip, "clip", ["embeddings.position_ids"]),
    ],
)
def test_tensors_that_are_no_weights_are_left_out(rename, name, extra):
    state = state_of(name)
    more = rename(state | dict.fromkeys(extra, np.zeros(1)))
    assert more.keys() == rename(state).keys()


@pytest.mark.oracle
def test_t5_takes_either_of_its_tied_tables():
    state = state_of("t5")
    want = families.from_t5(state)["text_branch.token.weight"]
    for name in ("shared.weight", "encoder.embed_tokens.weight"):
        less = {k: v for k, v in state.items() if k != name}
        np.testing.assert_array_equal(families.from_t5(less)["text_branch.token.weight"], want)


@pytest.mark.oracle
def test_both_layouts_of_clip_give_the_same_tower():
    theirs = families.from_clip(state_of("clip"))
    openai = {
        "token.weight": "token_embedding.weight",
        "position.weight": "positional_embedding",
        "final_norm": "ln_final",
        "attn.qkv.": "attn.in_proj_",
        "attn.proj": "attn.out_proj",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "fc1": "c_fc",
        "fc2": "c_proj",
        "layers": "resblocks",
    }
    state = {}
    for name, x in theirs.items():
        name = name.removeprefix("text_branch.")
        for ours, other in openai.items():
            name = name.replace(ours, other)
        state[name] = x
    got = families.from_clip(state)
    assert got.keys() == theirs.keys()
    assert all(got[n] is theirs[n] for n in got)


@pytest.mark.oracle
def test_missing_and_unknown_names_are_told():
    state = state_of("roberta")
    state["embeddings.odd"] = state.pop("encoder.layer.1.attention.self.key.bias")
    message = (
        r"RoBERTa: 1 missing \(encoder.layer.1.attention.self.key.bias\); "
        r"1 unknown \(embeddings.odd\)"
    )
    with pytest.raises(FormatError, match=message):
        families.from_roberta(state)
    with pytest.raises(FormatError, match=r"GPT-2: 15 missing \(h\.0\..*, and 10 more\)"):
        families.from_gpt2({"wte.weight": np.zeros(1)})


@pytest.mark.oracle
def test_parts_of_different_shapes_are_refused():
    state = state_of("bert")
    state["encoder.layer.2.attention.self.value.bias"] = np.zeros(3, np.float32)
    with pytest.raises(FormatError, match=r"BERT: layers.2.attn.qkv.bias: its parts have .*\(3,\)"):
        families.from_bert(state)
