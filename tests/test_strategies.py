"""Strategies: labels to banks of prompts."""

import pytest

from reclap.prompts.bank import Description, Entry, Prompt, PromptBank
from reclap.prompts.strategies import ATTRIBUTES, PLACES, STRATEGIES, make, sentence

BANK = PromptBank(
    "yard",
    {},
    {
        "dog_bark": Entry(
            "dog_bark",
            "",
            (
                Description("a gruff burst", (Prompt("A dog barks in a yard."),)),
                Description("a thin yelp", (Prompt("A puppy yelps."),), "rejected"),
                Description("A growl.", (Prompt("A dog growls."), Prompt("no", "rejected"))),
            ),
        )
    },
)
WANTED = {
    "template": ["Hear dog bark!"],
    "label": ["Dog bark."],
    "label+description": ["Dog bark. A gruff burst.", "Dog bark. A growl."],
    "attributes": [f"A {word} sound of dog bark." for word in ATTRIBUTES],
    "sources": [f"The sound of dog bark coming from {place}." for place in PLACES],
    "bank": ["A dog barks in a yard.", "A dog growls."],
}


def test_every_strategy_is_tested_and_says_where_it_comes_from():
    assert list(WANTED) == list(STRATEGIES)
    for name, strategy in STRATEGIES.items():
        assert name == "template" or "arXiv" in strategy.__doc__


@pytest.mark.parametrize("name", STRATEGIES)
def test_prompts_of_strategy(name):
    made = make(name, BANK, "Hear {label}!")
    assert made.prompts() == {"dog_bark": WANTED[name]}
    assert made.made == {"by": f"strategy {name}", "source": "yard"}
    assert PromptBank.from_json(made.to_json()) == made


@pytest.mark.parametrize("name", ["template", "label", "attributes", "sources"])
def test_labels_are_enough(name):
    assert make(name, ["a_b", "c"]).labels == ("a_b", "c")
    assert make(name, {"a_b": ["x"], "c": ["y"]}).prompts() == make(name, ["a_b", "c"]).prompts()


def test_plain_prompts_are_a_bank():
    assert make("bank", {"a": ["x", "y"]}).prompts() == {"a": ["x", "y"]}


@pytest.mark.parametrize(
    ("name", "labels", "words"),
    [
        ("best", ["a"], "strategy is 'best', expected one of template, label, label.description"),
        ("label+description", ["a", "b"], "no description of 'a', 'b' in 'labels'"),
        ("label+description", {"a": ["x"]}, "no description of 'a'"),
        ("bank", ["a"], r"labels\['a'\]: expected at least one"),
        ("label", [], "expected at least one"),
    ],
)
def test_what_a_strategy_lacks(name, labels, words):
    with pytest.raises(ValueError, match=words):
        make(name, labels)


def test_a_template_needs_its_place():
    with pytest.raises(ValueError, match=r"must contain \{label\}"):
        make("template", ["a"], "a sound")


@pytest.mark.parametrize(
    ("label", "want"),
    [("sea_waves", "Sea waves."), ("A.", "A."), (" ha! ", "Ha!"), ("é", "É."), ("b, c", "B, c.")],
)
def test_sentences(label, want):
    assert sentence(label) == want
