"""Strategies that make prompts from labels, by name; each gives a bank.

Wordings are our own: the papers named here fix ideas, not words, and where they let a language
model choose words for each label, the lists below serve all labels alike.
"""

from collections.abc import Callable, Mapping, Sequence

from reclap.prompts.bank import PromptBank
from reclap.prompts.entries import Entry
from reclap.text.tokenizer import check_texts, prompt_of

__all__ = ["STRATEGIES", "TEMPLATE", "Labels", "make", "sentence"]

Labels = Sequence[str] | Mapping[str, Sequence[str]] | PromptBank
Prompts = dict[str, list[str]]

TEMPLATE = "This is a sound of {label}."
ATTRIBUTES = ("loud", "feeble", "sharp", "muffled", "sudden", "steady", "distant", "clear")
PLACES = (
    "a street",
    "a tunnel",
    "a room",
    "a large hall",
    "a yard",
    "a field",
    "far away",
    "nearby",
)


def make(name: str, labels: Labels, template: str = TEMPLATE) -> PromptBank:
    """Make the bank of a strategy.

    Parameters
    ----------
    name : {"template", "label", "label+description", "attributes", "sources", "bank"}
        The strategy; see the functions of this module.
    labels : list of str, mapping of str to list of str, or PromptBank
        Labels, or a bank. "label+description" needs a bank with descriptions, "bank"
        needs prompts, the others look at the labels alone.
    template : str
        Prompt with ``{label}``, for the strategy "template".

    Returns
    -------
    PromptBank
        Bank with the name of the strategy.

    Raises
    ------
    TypeError, ValueError
        If there is no such strategy, or it needs what `labels` lacks.

    Examples
    --------
    >>> make("label", ["dog_bark", "rain"]).prompts()
    {'dog_bark': ['Dog bark.'], 'rain': ['Rain.']}
    """
    if name not in STRATEGIES:
        raise ValueError(f"strategy is {name!r}, expected one of {', '.join(STRATEGIES)}")
    bank = _bank_of(labels)
    made = {"by": f"strategy {name}", "source": bank.name}
    return PromptBank.from_prompts(STRATEGIES[name](bank, template), name, made)


def _bank_of(labels: Labels) -> PromptBank:
    if isinstance(labels, PromptBank):
        return labels
    if isinstance(labels, Mapping):
        return PromptBank.from_prompts(labels)
    return PromptBank("labels", {}, {label: Entry(label) for label in check_texts(labels)})


def sentence(text: str) -> str:
    """Return a label or phrase as a sentence: spaces for underscores, a capital, a full stop.

    Examples
    --------
    >>> sentence("dog_bark")
    'Dog bark.'
    """
    text = text.replace("_", " ").strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


# ---- Strategies: bank and template to prompts of each label ------------------------------------


def one_template(bank: PromptBank, template: str) -> Prompts:
    """Put one template around each label, as most evaluations of such models do."""
    if "{label}" not in template:
        raise ValueError(f"template is {template!r}, it must contain {{label}}")
    return {label: [prompt_of(label, template)] for label in bank.labels}


def label_alone(bank: PromptBank, _: str) -> Prompts:
    """Take the label as a sentence and nothing else (Olvera et al. 2024, arXiv 2409.13676)."""
    return {label: [sentence(label)] for label in bank.labels}


def label_and_description(bank: PromptBank, _: str) -> Prompts:
    """Put a description of the sound behind the label (Olvera et al. 2024, arXiv 2409.13676).

    One prompt for each description of the bank that is not rejected.
    """
    prompts = {
        label: [
            f"{sentence(label)} {sentence(d.text)}"
            for d in entry.descriptions
            if d.text and d.status != "rejected"
        ]
        for label, entry in bank.entries.items()
    }
    without = [label for label, texts in prompts.items() if not texts]
    if without:
        raise ValueError(f"no description of {', '.join(map(repr, without))} in {bank.name!r}")
    return prompts


def attributes(bank: PromptBank, _: str) -> Prompts:
    """Give the label attributes of sounds (TSPE, Anand et al. 2024, arXiv 2501.00398).

    The paper lets a language model choose the attributes of each label; here they are `ATTRIBUTES`.
    """
    return {
        label: [prompt_of(label, f"A {word} sound of {{label}}.") for word in ATTRIBUTES]
        for label in bank.labels
    }


def sources(bank: PromptBank, _: str) -> Prompts:
    """Name places that the label may come from (TSPE, Anand et al. 2024, arXiv 2501.00398).

    The paper lets a language model choose the places of each label; here they are `PLACES`.
    """
    return {
        label: [
            prompt_of(label, f"The sound of {{label}} coming from {place}.") for place in PLACES
        ]
        for label in bank.labels
    }


def bank_prompts(bank: PromptBank, _: str) -> Prompts:
    """Take the captions of a bank (ReCLAP, Ghosh et al. 2024, arXiv 2409.09213), to draw N of."""
    return bank.prompts()


STRATEGIES: dict[str, Callable[[PromptBank, str], Prompts]] = {
    "template": one_template,
    "label": label_alone,
    "label+description": label_and_description,
    "attributes": attributes,
    "sources": sources,
    "bank": bank_prompts,
}
