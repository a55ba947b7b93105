"""Review in a terminal, line by line."""

from typing import TextIO

from reclap.errors import ReclapError, one_line, printable
from reclap.review.api import Review
from reclap.review.neighbours import Near
from reclap.review.session import Decision

__all__ = ["Terminal"]

KEYS = """\
  a  accept, go on        e  edit          j  next, or just Enter
  r  reject, go on        g  ask again     k  back
  o  open again           u  undo          q  quit; all decisions are saved
  A  accept all unflagged U  redo          ?  these keys"""
_NAMES = {"description": "Description of", "prompt": "Caption for", "rewrite": "Rewrite of"}
_STATUS = {"a": "accepted", "r": "rejected", "o": "new"}


class Terminal:
    r"""Review as questions and answers, for terminals without any features.

    Parameters
    ----------
    review : Review
        State of the review.
    lines : text file
        Input of the reviewer; its end ends the review.
    out : text file
        Output to the reviewer.

    Examples
    --------
    >>> import io
    >>> from reclap import PromptBank
    >>> from reclap.review import open_review
    >>> PromptBank.from_prompts({"dog": ["a dog barks"]}).save("bank.json")
    >>> with open_review("bank.json") as review:
    ...     Terminal(review, io.StringIO("a\nq\n"), io.StringIO()).run()
    >>> PromptBank.load("bank.json").entries["dog"].in_use[0].status
    'accepted'
    """

    def __init__(self, review: Review, lines: TextIO, out: TextIO) -> None:
        self._session, self._neighbours = review.session, review.neighbours
        self._lines, self._out = lines, out
        self._queue = self._session.queue()
        self._at = 0

    def run(self) -> None:
        """Ask about one item after the other, until the reviewer quits."""
        self._say(KEYS)
        self._show()
        while (key := self._read("> ")) not in (None, "q"):
            try:
                self._act(key or "j")
            except (ReclapError, ValueError, OSError) as error:
                self._say(one_line(error))

    def _act(self, key: str) -> None:
        session, index = self._session, self._queue[self._at]
        if key in ("j", "k"):
            self._go(1 if key == "j" else -1)
        elif key in _STATUS:
            session.decide([index], _STATUS[key], session.revision)
            self._go(0 if key == "o" else 1)
        elif key == "e":
            text = self._read("new text, or nothing to leave it: ")
            if text:
                session.edit(index, text, session.revision)
                self._go(0)
        elif key == "g":
            self._say("asking the language model")
            session.ask_again(index, session.revision)
            self._go(0)
        elif key in ("u", "U"):
            undone = session.undo if key == "u" else session.redo
            self._follow(undone(session.revision))
        elif key == "A":
            self._accept_unflagged()
        else:
            self._say(KEYS)

    def _go(self, step: int) -> None:
        self._at += step
        if not 0 <= self._at < len(self._queue):
            self._at = max(0, min(self._at, len(self._queue) - 1))
            self._say("That was the last one." if self._at else "This is the first one.")
        self._show()

    def _follow(self, decision: Decision) -> None:
        """Go to the item that an undo or redo has changed."""
        if not decision.changed:
            return self._say("nothing more")
        if self._queue[self._at] not in decision.changed:
            self._at = self._queue.index(decision.changed[0])
        return self._show()

    def _accept_unflagged(self) -> None:
        items = self._session.items
        plain = [i for i, x in enumerate(items) if x.prompt.status == "new" and not x.prompt.flags]
        if self._read(f"accept {len(plain)} undecided texts without flags? [y/N] ") == "y":
            self._session.decide(plain, "accepted", self._session.revision)
            self._show()

    # ---- Reading and writing -----------------------------------------------------------------

    def _show(self) -> None:
        index = self._queue[self._at]
        item = self._session.items[index]
        counts = self._session.counts()
        done = len(self._queue) - counts["new"]
        state = {"new": "undecided"}.get(item.prompt.status, item.prompt.status)
        self._say("")
        self._say(
            f"[{self._at + 1} of {len(self._queue)}, {state}; {done} decided, "
            f"{counts['flagged']} flagged to do]"
        )
        self._say(f"{_NAMES[item.kind]}: {item.label}")
        if item.definition:
            self._say(f"  Definition: {item.definition}")
        if item.parent is not None:
            self._say(f"  Description: {self._session.items[item.parent].prompt.text}")
        self._say(f"  {item.prompt.text}")
        for flag in item.prompt.flags:
            self._say(f"  ! {flag}")
        nearest = self._neighbours.nearest(index)
        self._say_near("nearest elsewhere", nearest.other)
        self._say_near("nearest beside it", nearest.own)
        if nearest.problem:
            self._say(f"  (texts cannot be compared: {nearest.problem})")
        elif nearest.share < 1:
            self._say(f"  ({nearest.share:.0%} of all texts compared so far)")

    def _say_near(self, title: str, near: Near | None) -> None:
        if near is not None:
            item = self._session.items[near.index]
            self._say(f"  {title} ({near.similarity:.2f}): {item.label}: {item.prompt.text}")

    def _say(self, text: str) -> None:
        """Write lines, with control characters escaped."""
        self._out.write(printable(text) + "\n")

    def _read(self, question: str) -> str | None:
        """Return a line without the space around it, None at the end of all."""
        self._out.write(question)
        self._out.flush()
        line = self._lines.readline()
        return line.strip() if line else None
