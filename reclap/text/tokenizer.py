"""Tokenizer of the text tower: texts to token ids, one sequence after the other."""

import functools
import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reclap.config.text_tower import TextConfig
from reclap.errors import FormatError, needs

__all__ = ["TOKENIZERS", "Tokenizer", "check_texts", "find_tokenizer", "prompt_of"]

log = logging.getLogger(__name__)

Ids = npt.NDArray[np.int32]

_UNKNOWN = {"[UNK]", "<unk>", "\u2581"}  # the last one is SentencePiece's start of a word
_BLOCK = 1000  # texts whose encodings, some kilobytes each, are in memory at once

# Files of a tokenizer (`vocabulary`); the first one in a folder counts.
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")


def find_tokenizer(folder: Path) -> Path | None:
    """Find the tokenizer of a folder: the first file of `TOKENIZERS`.

    Parameters
    ----------
    folder : Path
        A model folder.

    Returns
    -------
    Path or None
        The file, if there is one.

    Examples
    --------
    >>> find_tokenizer(Path("missing")) is None
    True
    """
    return next((folder / name for name in TOKENIZERS if (folder / name).is_file()), None)


def check_texts(texts: Sequence[str], name: str = "texts", *, least: int = 1) -> list[str]:
    """Check that an argument is a list of non-empty strings.

    Parameters
    ----------
    texts : sequence of str
        The argument.
    name : str
        Name of the argument in messages.
    least : int
        Least number of strings.

    Returns
    -------
    list of str
        The strings.

    Raises
    ------
    TypeError
        If `texts` is a single string, no list, or holds something else than strings.
    ValueError
        If there are fewer, or one is empty; the message names its index.

    Examples
    --------
    >>> check_texts(("rain", "a dog"))
    ['rain', 'a dog']
    >>> check_texts(["rain", ""], "labels")
    Traceback (most recent call last):
    ValueError: labels[1] is empty
    """
    if isinstance(texts, str | bytes):
        raise TypeError(f"{name}: expected a list of strings, got one string; write [{texts!r}]")
    if not isinstance(texts, Iterable):
        raise TypeError(f"{name}: expected a list of strings, got {type(texts).__name__}")
    items = list(texts)
    if len(items) < least:
        raise ValueError(f"{name}: expected at least one, got none")
    for i, text in enumerate(items):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{i}]: expected a string, got {type(text).__name__}")
        if not text.strip():
            raise ValueError(f"{name}[{i}] is empty")
        if not _is_unicode(text):
            raise ValueError(f"{name}[{i}]: not valid Unicode: {text!r}")
    return items


def _is_unicode(text: str) -> bool:
    """Tell whether a text has no lone surrogates, which file names with stray bytes have."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def prompt_of(label: str, template: str) -> str:
    """Return the prompt of a label.

    Parameters
    ----------
    label : str
        The label; underscores become spaces.
    template : str
        The prompt, with ``{label}`` where the label goes.

    Returns
    -------
    str
        The prompt.

    Examples
    --------
    >>> prompt_of("dog_bark", "The sound of {label}.")
    'The sound of dog bark.'
    """
    return template.replace("{label}", label.replace("_", " "))


class Tokenizer:
    """A tokenizer of the `tokenizers` library, truncating at the tower's length.

    Parameters
    ----------
    path : Path
        One of the files of `TOKENIZERS`, or a tokenizer.json of another name.
    config : TextConfig
        Gives the length at which texts are truncated, special tokens included, the suffix of every
        text, and the strings that are always one token.

    Attributes
    ----------
    path : Path
        The file, as given.

    Raises
    ------
    FormatError
        If the file is no tokenizer.
    MissingDependencyError
        If the package ``tokenizers`` is missing.

    Examples
    --------
    >>> import reclap
    >>> from reclap.config import TextConfig
    >>> path = Path(reclap.__file__).parent / "models" / "mini" / "tokenizer.json"
    >>> tokenizer = Tokenizer(path, TextConfig())
    >>> ids, first = tokenizer.encode(["rain", "a dog barks"])
    >>> ids.shape, first.tolist()
    ((9,), [0, 3, 9])
    >>> tokenizer.unknown(["rain", "🐶"])
    [False, True]
    >>> tokenizer.describe()["kind"], len(tokenizer.digest), tokenizer.to_json()[:1]
    ('WordPiece', 64, b'{')
    """

    def __init__(self, path: Path, config: TextConfig) -> None:
        with needs("tokenizers", "embedding texts"):
            from reclap.text import vocabulary  # here, because the library takes 50 ms
            from reclap.text.tokenizer_limits import longest_text

        self._tokenizer, self.path = vocabulary.load(path), path
        self._longest = longest_text(path, self._tokenizer)
        special = self._tokenizer.num_special_tokens_to_add(is_pair=False)
        if special >= config.max_tokens:
            raise FormatError(
                f"{path}: adds {special} tokens to every text, expected fewer than "
                f"{config.max_tokens}, at which texts are cut"
            )
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(config.max_tokens)
        known = [t for t in config.whole if self._tokenizer.token_to_id(t) is not None]
        self._tokenizer.add_special_tokens(known)
        self._max_tokens, self._suffix = config.max_tokens, config.suffix

    def describe(self) -> dict[str, Any]:
        """Return a summary of the tokenizer, as `reclap.Model.info` shows it.

        Returns
        -------
        dict
            ``file``; ``kind`` of the model inside; ``tokens``, their number.
        """
        kind = type(self._tokenizer.model).__name__
        return {"file": str(self.path), "kind": kind, "tokens": self._tokenizer.get_vocab_size()}

    def to_json(self) -> bytes:
        """Return the content of an equivalent tokenizer.json, without truncation.

        It is made from what was loaded, not from the file, which may have changed since.

        Returns
        -------
        bytes
            JSON, UTF-8.
        """
        import tokenizers  # here, because the library takes 50 ms

        whole = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        whole.no_truncation()
        return whole.to_str(pretty=True).encode()

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 over the tokenizer as it is in use, truncation and suffix included."""
        data = self._tokenizer.to_str() + self._suffix
        return hashlib.sha256(data.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Ids]:
        """Tokenize texts.

        Parameters
        ----------
        texts : sequence of str
            A text without any token still gives its special tokens.

        Returns
        -------
        ids : ndarray of int32, shape (total,)
            All sequences, one after the other.
        first : ndarray of int32, shape (len(texts) + 1,)
            Index at which each begins, and the total.

        Raises
        ------
        FormatError
            If the tokenizer lacks what a text needs, such as its own unknown token.
        ValueError
            If a text has more than a million characters, or fewer where the tokenizer can make
            many tokens of few.
        """
        for i, text in enumerate(texts):
            if len(text) > self._longest:
                raise ValueError(
                    f"texts[{i}] has {len(text)} characters, expected at most {self._longest}"
                )
        ids: list[Ids] = []
        cut = 0
        for begin in range(0, len(texts), _BLOCK):
            encoded = self._encode(texts[begin : begin + _BLOCK])
            ids += [np.array(e.ids, np.int32) for e in encoded]
            cut += sum(bool(e.overflowing) for e in encoded)
        if cut:
            log.warning("%d of %d texts were cut at %d tokens", cut, len(ids), self._max_tokens)
        first = np.cumsum([0, *map(len, ids)], dtype=np.int32)
        return np.concatenate([*ids, np.empty(0, np.int32)]), first

    def unknown(self, texts: Sequence[str]) -> list[bool]:
        """Tell for each text whether the tokenizer knows no part of it, as with an emoji.

        Parameters
        ----------
        texts : sequence of str
            The texts.

        Returns
        -------
        list of bool
            True for a text of unknown tokens only.
        """
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [set(encoding.tokens) <= _UNKNOWN for encoding in found]

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        """Encode one by one: a batch would start the library's threads, whose number is unbounded.

        They would also not survive a fork. A text takes 0.04 ms, its embedding a hundred times
        that.
        """
        from reclap.text.vocabulary import library_errors

        with library_errors(self.path, "not a usable tokenizer"):
            return [self._tokenizer.encode(text + self._suffix) for text in texts]
