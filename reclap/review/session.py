"""Review in progress: decisions, undo, saving; the same for the page and the terminal."""

import contextlib
import datetime
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from reclap.errors import FormatError, ReclapError, one_line
from reclap.io.files import staged
from reclap.prompts.entries import STATUSES, Prompt
from reclap.review.documents import Document, Item
from reclap.review.history import Change, History, change_to
from reclap.review.journal import Journal, digest

__all__ = ["Ask", "Check", "Decision", "Session", "StaleError"]

log = logging.getLogger(__name__)

Ask: TypeAlias = Callable[[Item, str, Sequence[str]], Prompt]
Check: TypeAlias = Callable[[Item, str, Sequence[str]], tuple[str, ...]]

LONGEST = 2000  # characters of a text
PAUSE = 1.0  # s


class Decision(NamedTuple):
    """Effect of a decision.

    Parameters
    ----------
    changed : list of int
        Indices of the items that it changed.
    revision : int
        Number of decisions so far, this one included.

    Examples
    --------
    >>> Decision([3], 7).revision
    7
    """

    changed: list[int]
    revision: int


class StaleError(ReclapError):
    """Error of a decision that was based on an older revision: look again."""


class Session:
    """Review of one file.

    Every decision is on disk, in the journal, when its method returns. The file itself is written
    a moment later by a thread, and at the end by `close`. Methods may be called from several
    threads.

    Parameters
    ----------
    document : Document
        The file under review.
    ask : callable, optional
        Takes an item, its description or nothing, and the texts that must not come again;
        returns a prompt to replace it: a language model, as `reclap.review.regenerate.regenerator`.
    check : callable, optional
        Takes an item, a new text for it and the other texts of its label; returns the flags of
        the new text.
    pause : float
        Seconds from a decision to the writing of the file.

    Attributes
    ----------
    problem : str
        Why the file could not be written, or nothing.

    Raises
    ------
    ReclapError, FormatError
        As for `Journal`.

    Examples
    --------
    >>> from reclap import PromptBank
    >>> from reclap.review import open_document
    >>> PromptBank.from_prompts({"dog": ["a dog barks", "a cat meows"]}).save("bank.json")
    >>> review = Session(open_document("bank.json"))
    >>> review.queue(), review.counts()["new"]
    ([0, 1], 2)
    >>> review.decide([0, 1], "accepted", review.revision)
    Decision(changed=[0, 1], revision=1)
    >>> review.edit(1, "a dog howls", review.revision)
    Decision(changed=[1], revision=2)
    >>> review.undo(review.revision), review.can_redo
    (Decision(changed=[1], revision=3), True)
    >>> review.redo(review.revision)
    Decision(changed=[1], revision=4)
    >>> review.ask_again(0, review.revision)
    Traceback (most recent call last):
    reclap.errors.ReclapError: no language model to ask: start reclap review with --ask
    >>> review.close()
    >>> PromptBank.load("bank.json").prompts()
    {'dog': ['a dog barks', 'a dog howls']}
    """

    def __init__(
        self,
        document: Document,
        *,
        ask: Ask | None = None,
        check: Check | None = None,
        pause: float = PAUSE,
    ) -> None:
        self.document = document
        self.items = list(document.items)
        self.problem = ""
        self._ask, self._check, self._pause = ask, check, pause
        self._state = document.digest  # of the file as we have read or written it
        self._history = History(self.items)
        self._lock = threading.RLock()
        self._journal = Journal(document.path, document.digest)
        try:
            self._replay()
        except BaseException:
            self._journal.close()
            raise
        self._changed = threading.Condition(self._lock)  # of the two that follow
        self._is_unsaved = bool(self._journal.pending)
        self._is_closing = False
        self._saver = threading.Thread(target=self._save_later, name="reclap-review", daemon=True)
        self._saver.start()

    # ---- Looking -----------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """Number of decisions so far; a decision for which another one was seen is refused."""
        return self._history.revision

    @property
    def can_ask(self) -> bool:
        """Whether another text can be asked for."""
        return self._ask is not None

    @property
    def can_undo(self) -> bool:
        """Whether there is a decision to take back."""
        return bool(self._history.past)

    @property
    def can_redo(self) -> bool:
        """Whether there is a decision that was taken back."""
        return bool(self._history.future)

    def queue(self) -> list[int]:
        """Return the order in which to review: undecided items first, flagged before others.

        Returns
        -------
        list of int
            Indices of all items.
        """
        prompts = [item.prompt for item in self.items]
        return sorted(
            range(len(prompts)), key=lambda i: (prompts[i].status != "new", not prompts[i].flags)
        )

    def counts(self) -> Counter[str]:
        """Return the number of items by status.

        Returns
        -------
        Counter of str
            ``new``, ``accepted``, ``rejected``; and ``flagged`` among the new.
        """
        counts: Counter[str] = Counter(item.prompt.status for item in self.items)
        counts["flagged"] = sum(
            bool(item.prompt.flags) for item in self.items if item.prompt.status == "new"
        )
        return counts

    # ---- Deciding ----------------------------------------------------------------------------

    def decide(self, indices: Iterable[int], status: str, revision: int) -> Decision:
        """Give items a status.

        Parameters
        ----------
        indices : iterable of int
            Indices of the items.
        status : {"new", "accepted", "rejected"}
            The status.
        revision : int
            Revision that the caller has seen.

        Returns
        -------
        Decision
            The items that had another status.

        Raises
        ------
        StaleError
            If `revision` is not the present one.
        ValueError
            If there is no such item or status.
        OSError
            If the journal cannot be written; nothing has changed then.
        """
        with self._current(revision):
            indices = list(dict.fromkeys(indices))
            self._refuse_absent(indices)
            if status not in STATUSES:
                raise ValueError(f"status {status!r}; expected {', '.join(STATUSES)}")
            return self._do(
                (i, {"status": self.items[i].prompt.status}, {"status": status})
                for i in indices
                if self.items[i].prompt.status != status
            )

    def edit(self, index: int, text: str, revision: int) -> Decision:
        """Replace the text of an item by a person's, and accept it.

        Parameters
        ----------
        index : int
            Index of the item.
        text : str
            The new text.
        revision : int
            Revision that the caller has seen.

        Returns
        -------
        Decision
            The item.

        Raises
        ------
        ValueError
            If the text is empty or too long, or there is no such item.
        StaleError, OSError
            As for `decide`.
        """
        text = " ".join(text.split())
        if not 0 < len(text) <= LONGEST:
            raise ValueError(f"a text of {len(text)} characters; expected 1 to {LONGEST}")
        with self._current(revision):
            self._refuse_absent([index])
            item = self.items[index]
            if text == item.prompt.text:
                return self.decide([index], "accepted", revision)
            origin = {
                **item.prompt.origin,
                "edited_from": item.prompt.origin.get("edited_from", item.prompt.text),
                "by": "review",
                "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            }
            flags = self._check(item, text, self._beside(item)) if self._check else ()
            return self._do([change_to(index, item, Prompt(text, "accepted", flags, origin))])

    def ask_again(self, index: int, revision: int) -> Decision:
        """Replace an item by a new text of the language model.

        Other decisions may be taken meanwhile.

        Parameters
        ----------
        index : int
            Index of the item.
        revision : int
            Revision that the caller has seen.

        Returns
        -------
        Decision
            The item.

        Raises
        ------
        ReclapError
            If there is no language model, or it has no other text.
        ValueError
            If there is no such item.
        StaleError, OSError
            As for `decide`.
        """
        if self._ask is None:
            raise ReclapError("no language model to ask: start reclap review with --ask")
        with self._current(revision):
            self._refuse_absent([index])
            item = self.items[index]
            taken = [*self._beside(item), item.prompt.text]
            about = "" if item.parent is None else self.items[item.parent].prompt.text
        prompt = self._ask(item, about, taken)
        with self._lock:
            if self.items[index] is not item:
                raise StaleError("the item was changed while the language model was asked")
            return self._do([change_to(index, item, prompt)])

    def undo(self, revision: int) -> Decision:
        """Take back the last decision that stands.

        Parameters
        ----------
        revision : int
            Revision that the caller has seen.

        Returns
        -------
        Decision
            The items of that decision; none if there is no decision.

        Raises
        ------
        StaleError, OSError
            As for `decide`.
        """
        with self._current(revision):
            return self._note({"undo": True} if self._history.past else None)

    def redo(self, revision: int) -> Decision:
        """Repeat the last decision that was taken back.

        Parameters
        ----------
        revision : int
            Revision that the caller has seen.

        Returns
        -------
        Decision
            The items of that decision; none if there is no decision.

        Raises
        ------
        StaleError, OSError
            As for `decide`.
        """
        with self._current(revision):
            return self._note({"redo": True} if self._history.future else None)

    @contextlib.contextmanager
    def _current(self, revision: int) -> Iterator[None]:
        """Hold the lock, for a caller that has seen the present revision."""
        with self._lock:
            if revision != self.revision:
                raise StaleError("something was decided elsewhere since")
            yield

    def _refuse_absent(self, indices: Sequence[int]) -> None:
        for index in indices:
            if not 0 <= index < len(self.items):
                raise ValueError(f"item {index}; expected 0 to {len(self.items) - 1}")

    def _beside(self, item: Item) -> list[str]:
        """Return the other texts of the same kind and label."""
        return [
            other.prompt.text
            for other in self.items
            if (other.label, other.kind) == (item.label, item.kind)
            and other is not item
            and other.prompt.status != "rejected"
        ]

    def _do(self, changes: Iterable[Change]) -> Decision:
        listed = list(changes)
        return self._note({"do": listed} if listed else None)

    def _note(self, step: dict[str, Any] | None) -> Decision:
        """Write a step to the journal, then apply it."""
        if self._is_closing:
            raise ReclapError("this review has ended")
        if step is None:
            return Decision([], self.revision)
        self._journal.append(step)
        indices = self._history.follow(step)
        self._is_unsaved = True
        self._changed.notify_all()
        return Decision(indices, self.revision)

    def _replay(self) -> None:
        """Apply the decisions of earlier sessions."""
        try:
            for step in self._journal.past:
                self._history.follow(step, is_in_file=True)
            for step in self._journal.pending:
                self._history.follow(step)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"{self._journal.path}: does not fit {self.document.path}: {one_line(error)}"
            ) from error

    # ---- Saving ------------------------------------------------------------------------------

    def _save_later(self) -> None:
        while self._is_due():
            try:
                self._save()
                self.problem = ""
            except Exception as error:  # whatever it is, the thread goes on trying
                is_ours = not isinstance(error, OSError | ReclapError)
                if one_line(error) != self.problem:
                    what = "the reviewed file could not be written: %s"
                    log.warning(what, one_line(error), exc_info=is_ours)
                self.problem = one_line(error)

    def _is_due(self) -> bool:
        """Wait for a decision and the pause after it; false at the end of the review."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_unsaved or self._is_closing)
            self._changed.wait_for(lambda: self._is_closing, self._pause)
            return not self._is_closing

    def _save(self) -> None:
        with self._lock:
            prompts, steps = [item.prompt for item in self.items], self.revision
            self._is_unsaved = False
        try:
            self._write(prompts, steps)
        except BaseException:
            with self._lock:
                self._is_unsaved = True
            raise

    def _write(self, prompts: Sequence[Prompt], steps: int) -> None:
        if digest(self.document.path) != self._state:
            raise ReclapError(f"{self.document.path}: changed by something else during the review")
        with staged(self.document.path) as [new]:
            self.document.write(new, prompts)
            state = digest(new)
            self._journal.mark_saving(state, steps)
        self._state = state
        self._journal.mark_saved(state, steps)

    def close(self) -> None:
        """Write the remaining decisions to the file, and release it to other processes.

        Raises
        ------
        OSError, ReclapError
            If the file cannot be written, or something else has changed it; the decisions are in
            the journal.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._saver.join()
        try:
            if self._is_unsaved:
                self._save()
        finally:
            self._journal.close()
