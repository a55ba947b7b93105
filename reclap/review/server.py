"""Server of the review page, and its access control.

Only this machine can connect. The page itself holds nothing of the review and is given to whoever
asks with a Host header that names this server, which a foreign name that resolves to 127.0.0.1
does not. Everything else needs the token of the address that the command prints, in a header that
pages of other origins cannot set. There is no cookie, since a browser would give it to servers on
other ports as well; and the token stands in the fragment of the address, which is sent nowhere. A
player cannot set headers: the address of a clip holds a key of its label instead. Texts go out as
JSON only; the page puts them in as text.
"""

import contextlib
import errno
import hmac
import http.server
import re
import secrets
import sys
import traceback
import urllib.parse
from collections.abc import Mapping
from http import HTTPStatus
from importlib import resources
from pathlib import Path
from typing import IO, Any

from reclap.errors import FormatError, ReclapError, one_line
from reclap.io.files import parse_json
from reclap.review.api import Review, clip_of, decide, items, nearest, plain
from reclap.review.example_sounds import KINDS
from reclap.review.session import StaleError

__all__ = ["Server"]

HOST = "127.0.0.1"
TOKEN = "X-Reclap-Token"  # noqa: S105 (the name of a header)
LARGEST = 1 << 22  # bytes of a decision: a million items
CHUNK = 1 << 16
IDLE = 60  # seconds after which a silent connection is closed

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/list.js": ("list.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Server(http.server.ThreadingHTTPServer):
    """HTTP server of a review, for browsers on this machine.

    Parameters
    ----------
    review : Review
        State of the page.
    port : int
        Port to listen on; 0 for any free one.

    Attributes
    ----------
    url : str
        The address to open, with the token in its fragment.

    Raises
    ------
    OSError
        If the port is in use.

    Examples
    --------
    ``server.serve_forever()`` answers until Ctrl-C.

    >>> from reclap import PromptBank
    >>> from reclap.review import open_review
    >>> PromptBank.from_prompts({"dog": ["a dog barks"]}).save("bank.json")
    >>> with open_review("bank.json") as review, Server(review) as server:
    ...     print(server.url.partition("#")[0][:17], len(server.clip_key(0)))
    http://127.0.0.1: 64
    """

    daemon_threads = True

    def __init__(self, review: Review, port: int = 0) -> None:
        self.review = review
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"port {port} of {HOST}") from error
        self.url = f"http://{HOST}:{self.server_port}/#{self.token}"

    def clip_key(self, label: int) -> str:
        """Return the key to the clips of a label, from which the token cannot be derived.

        Parameters
        ----------
        label : int
            Index of the label.

        Returns
        -------
        str
            64 hexadecimal digits.
        """
        return hmac.new(self.token.encode(), f"clip {label}".encode(), "sha256").hexdigest()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error on standard error, unless the browser closed the connection."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            traceback.print_exc()


class _Refused(Exception):
    """Error of a request that is refused."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE

    def do_GET(self) -> None:
        """Answer with a file of the page, the items, what is nearest to one, or a clip."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Apply a decision."""
        self._answer(self._post)

    def _refuse_method(self) -> None:
        self.close_connection = True
        self._send_error(HTTPStatus.METHOD_NOT_ALLOWED, "expected GET or POST")

    do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = do_PUT = _refuse_method

    def _answer(self, work: Any) -> None:
        """Handle a request; errors become one line, never a traceback to the client."""
        try:
            work(urllib.parse.urlsplit(self.path))
        except _Refused as refused:
            self._send_error(refused.status, str(refused))
        except StaleError as error:
            self._send_error(HTTPStatus.CONFLICT, one_line(error))
        except (FormatError, ReclapError, ValueError) as error:
            self._send_error(HTTPStatus.BAD_REQUEST, one_line(error))
        except FileNotFoundError as error:
            self._send_error(HTTPStatus.NOT_FOUND, one_line(error))
        except ConnectionError:
            raise
        except OSError as error:
            full, other = HTTPStatus.INSUFFICIENT_STORAGE, HTTPStatus.INTERNAL_SERVER_ERROR
            self._send_error(full if error.errno in _FULL else other, one_line(error))
        except Exception:
            traceback.print_exc()
            reason = "something went wrong; see where reclap review runs"
            self._send_error(HTTPStatus.INTERNAL_SERVER_ERROR, reason)

    # ---- Access control ----------------------------------------------------------------------

    def _check_caller(self, path: str) -> None:
        port = self.server.server_port
        if self.headers.get_all("Host") not in ([f"{HOST}:{port}"], [f"localhost:{port}"]):
            raise _Refused(HTTPStatus.FORBIDDEN, "the Host header does not name this server")
        is_page = self.command == "GET" and path == "/"  # to which links of other sites may lead
        site = self.headers.get("Sec-Fetch-Site", "none")
        if site not in ("same-origin", "none") and not is_page:
            raise _Refused(HTTPStatus.FORBIDDEN, "asked for by another site")
        origin, host = self.headers.get("Origin"), self.headers["Host"]
        if origin is not None and origin != f"http://{host}":
            raise _Refused(HTTPStatus.FORBIDDEN, "sent by a page of another origin")

    def _check_token(self) -> None:
        if not _is_same(self.headers.get(TOKEN, ""), self.server.token):
            raise _Refused(HTTPStatus.FORBIDDEN, "open the address that reclap review printed last")

    # ---- Answers -----------------------------------------------------------------------------

    def _get(self, address: urllib.parse.SplitResult) -> None:
        self._check_caller(address.path)
        if address.path in _FILES:
            return self._send_file(*_FILES[address.path])
        query = dict(urllib.parse.parse_qsl(address.query))
        if address.path == "/clip":
            return self._get_clip(query)
        self._check_token()
        review = self.server.review
        if address.path == "/items":
            return self._send_json(items(review, self.server.clip_key))
        if address.path == "/nearest":
            return self._send_json(nearest(review, _number(query, "item")))
        raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _get_clip(self, query: Mapping[str, str]) -> None:
        label, clip = _number(query, "label"), _number(query, "clip")
        if not _is_same(query.get("key", ""), self.server.clip_key(label)):
            raise _Refused(HTTPStatus.FORBIDDEN, "this key does not open the clip")
        self._send_clip(clip_of(self.server.review, label, clip))

    def _post(self, address: urllib.parse.SplitResult) -> None:
        self.close_connection = True  # until the body is read
        self._check_caller(address.path)
        self._check_token()
        if address.path != "/decide":
            raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        body = self._body()
        self.close_connection = False
        self._send_json(decide(self.server.review, parse_json("request", body)))

    def _body(self) -> bytes:
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"[0-9]{1,18}", length):
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if int(length) > LARGEST:
            raise _Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{length} bytes; at most {LARGEST}"
            )
        return self.rfile.read(int(length))

    # ---- Sending -----------------------------------------------------------------------------

    def _send_file(self, name: str, kind: str) -> None:
        data = resources.files("reclap.review").joinpath("page", name).read_bytes()
        self._send(HTTPStatus.OK, data, kind)

    def _send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, plain(value), "application/json")

    def _send(self, status: HTTPStatus, data: bytes, kind: str) -> None:
        self._send_head(status, len(data), kind)
        self.wfile.write(data)

    def _send_head(
        self, status: HTTPStatus, length: int, kind: str, extra: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(length), **_HEADERS, **(extra or {})}
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_clip(self, path: Path) -> None:
        """Send a sound, or the range of its bytes that a player asks for."""
        size = path.stat().st_size
        first, last = self._range(size)
        is_part = "Range" in self.headers
        extra = {"Accept-Ranges": "bytes"}
        if is_part:
            extra["Content-Range"] = f"bytes {first}-{last}/{size}"
        status = HTTPStatus.PARTIAL_CONTENT if is_part else HTTPStatus.OK
        with path.open("rb") as f:
            f.seek(first)
            self._send_head(status, last + 1 - first, KINDS[path.suffix.lower()], extra)
            left = last + 1 - first
            while left and (data := _part(f, min(left, CHUNK))):
                self.wfile.write(data)
                left -= len(data)
        self.close_connection |= left > 0  # less came than was announced

    def _range(self, size: int) -> tuple[int, int]:
        """Return the first and the last byte that are asked for."""
        given = self.headers.get("Range")
        if given is None:
            return 0, size - 1
        found = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", given)
        first, last = found.groups() if found else ("", "")
        if first:
            begin, end = int(first), min(int(last or size), size - 1)
        else:  # the last so many bytes
            begin, end = max(size - int(last or 0), 0), size - 1
        if begin > end:
            raise _Refused(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"the clip has {size} bytes")
        return begin, end

    def _send_error(self, status: HTTPStatus, reason: str) -> None:
        self._send_json({"error": reason}, status)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer requests that the base class refuses, without repeating any of them."""
        self.close_connection = True
        self._send_error(HTTPStatus(code), HTTPStatus(code).phrase)

    def version_string(self) -> str:
        """Name the program, not the versions of what it runs on."""
        return "reclap"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet: addresses of clips hold keys."""


def _is_same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), secret.encode())


def _part(f: IO[bytes], size: int) -> bytes:
    """Read the next bytes; none if the file has shrunk or cannot be read any further."""
    with contextlib.suppress(OSError):
        return f.read(size)
    return b""


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise _Refused(HTTPStatus.BAD_REQUEST, f"{name} is missing or no number")
    return int(text)
