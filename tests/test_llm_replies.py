"""Texts out of replies, whatever they hold."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reclap.llm.replies import ReplyError, read_texts


@pytest.mark.parametrize(
    "reply",
    [
        '{"1": "a b", "2": "c"}',
        '{"2": "c", "1": "a b"}',
        '["a b", "c"]',
        'Here you are:\n```json\n{"1": "a  b", "2": "c",}\n```\nMore?',
        '{"captions": {"1": "a b", "2": "c"}}',
        '{"captions": ["a b", "c"]}',
        '{"1": {"caption": "a b"}, "2": {"caption": "c"}}',
        '[{"text": "a b"}, {"text": "c"}]',
        '<think>{"maybe": 1} [not this</think> {"1": "a\\nb", "2": " c "}',
        '\ufeff{"1": "a b", "2": "c"}',
    ],
)
def test_texts_are_read(reply):
    assert read_texts(reply) == ["a b", "c"]


def test_indices_are_numbers():
    reply = json.dumps({str(i): f"text {i}" for i in range(12, 0, -1)})
    assert read_texts(reply) == [f"text {i}" for i in range(1, 13)]


def test_other_keys_keep_their_order():
    assert read_texts('{"b": "x", "a": "y"}') == ["x", "y"]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("", "empty reply"),
        (" \n", "empty reply"),
        ('{"1": ""}', "empty reply"),
        ('{"1": "a", "2": ""}', "empty text"),
        ("no JSON here", "invalid JSON"),
        ('{"1": "cut off', "invalid JSON"),
        ("__import__('os').system('id')", "invalid JSON"),
        ("{'1': 'a'}", "invalid JSON"),
        ('{"1": null}', "not a text"),
        ('{"1": 3, "2": "a"}', "not a text"),
        ("{}", "empty reply"),
        ("[]", "empty reply"),
        ('{"1": ["a", "b"], "2": ["c", "d"]}', "not a text"),
        ('[[[[["a"]]]]]', "not a text"),
        ('{"1": "\\ud800"}', "not Unicode"),
        ("[" * 100_000, "invalid JSON"),
        ('{"a":' * 100_000, "invalid JSON"),
    ],
)
def test_useless_reply_is_named(reply, kind):
    with pytest.raises(ReplyError) as caught:
        read_texts(reply)
    assert caught.value.kind == kind


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("1"), inner),
)


@given(st.one_of(st.text(), JSON.map(json.dumps), st.text(alphabet='{}[]",:1a\\ ')))
def test_any_reply_gives_texts_or_its_kind(reply):
    try:
        texts = read_texts(reply)
    except ReplyError:
        return
    assert texts
    assert all(text and text == " ".join(text.split()) for text in texts)
