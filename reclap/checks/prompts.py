"""Checks of descriptions and captions that a language model wrote for a label."""

from collections.abc import Sequence

from reclap.checks.duplicates import check_siblings
from reclap.checks.finding import Finding
from reclap.checks.form import check_form, is_readable
from reclap.checks.labels import check_labels
from reclap.checks.similarity import Sense

__all__ = ["check_description", "check_prompt"]


def check_description(
    text: str,
    label: str,
    *,
    definition: str = "",
    others: Sequence[str] = (),
    siblings: Sequence[str] = (),
    sense: Sense | None = None,
) -> list[Finding]:
    """Check a description of how the sound of a label sounds.

    Parameters
    ----------
    text : str
        The description.
    label : str
        Label of the text.
    definition : str
        Meaning of the label, where its name alone does not say.
    others : sequence of str
        The other labels of the set.
    siblings : sequence of str
        Descriptions of this label that are accepted already.
    sense : Sense, optional
        Similarity in meaning; without it only words are compared.

    Returns
    -------
    list of Finding
        Faults; empty for a good one.

    Examples
    --------
    >>> check_description("A short, gruff burst that starts abruptly and fades fast.", "dog bark")
    []
    >>> [str(f) for f in check_description("A throaty bark", "dog bark")]
    ['length: 3 words, expected 4 to 60']
    """
    return _check(text, label, "description", definition, others, siblings, sense)


def check_prompt(
    text: str,
    label: str,
    *,
    definition: str = "",
    others: Sequence[str] = (),
    siblings: Sequence[str] = (),
    sense: Sense | None = None,
) -> list[Finding]:
    """Check a caption that serves as a prompt of a label.

    Parameters
    ----------
    text : str
        The caption.
    label : str
        Label of the text.
    definition : str
        Meaning of the label, where its name alone does not say.
    others : sequence of str
        The other labels of the set.
    siblings : sequence of str
        Captions of this label that are accepted already.
    sense : Sense, optional
        Similarity in meaning; without it only words are compared.

    Returns
    -------
    list of Finding
        Faults; empty for a good one.

    Examples
    --------
    >>> check_prompt("A dog barks gruffly behind a garden fence.", "dog bark", others=["rain"])
    []
    """
    return _check(text, label, "prompt", definition, others, siblings, sense)


def _check(
    text: str,
    label: str,
    kind: str,
    definition: str,
    others: Sequence[str],
    siblings: Sequence[str],
    sense: Sense | None,
) -> list[Finding]:
    own = check_form(text, kind)
    if not is_readable(own):
        return own
    (besides,) = check_labels(
        [text], label, kind, definition=definition, others=others, sense=sense
    )
    return [*own, *check_siblings(text, siblings, sense), *besides]
