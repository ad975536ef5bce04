"""A proxy before an S3 server that does what a network and other stores do to requests."""

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

_HOP = {"connection", "expect", "transfer-encoding", "content-length"}
_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class Request(NamedTuple):
    """A request as it arrives."""

    number: int
    """The first one after a fault was set has 1."""
    method: str
    key: str
    """Without the bucket; "" if the request is for the bucket."""
    query: dict[str, list[str]]
    headers: dict[str, str]
    """Names in small letters."""

    @property
    def is_listing(self) -> bool:
        return "list-type" in self.query

    @property
    def is_conditional(self) -> bool:
        return "if-none-match" in self.headers


class Answer(NamedTuple):
    """An answer of the store."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


Forward = Callable[[], Answer]
Fault = Callable[[Request, Forward], Answer]


def no_fault(request: Request, forward: Forward) -> Answer:  # noqa: ARG001
    return forward()


def refusal(status: int, code: str) -> Answer:
    """An error of S3."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
    return Answer(status, [("Content-Type", "application/xml")], body)


def without_keys(answer: Answer, is_hidden: Callable[[str], bool]) -> Answer:
    """A listing that lacks some keys and folders."""
    root = ElementTree.fromstring(answer.body)
    for kind, name in (("Contents", "Key"), ("CommonPrefixes", "Prefix")):
        for entry in root.findall(f"{_NAMESPACE}{kind}"):
            if is_hidden(entry.findtext(f"{_NAMESPACE}{name}") or ""):
                root.remove(entry)
    return answer._replace(body=ElementTree.tostring(root, xml_declaration=True, encoding="UTF-8"))


class Proxy:
    """Hands requests on to a store; `fault` decides about each: its answer, or ConnectionResetError."""

    def __init__(self, store: str) -> None:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each answer waits 40 ms for the acknowledgement of its first half

            def handle_one(self) -> None:
                proxy._handle(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._store = store
        self._lock = threading.Lock()
        self.set(no_fault)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def set(self, fault: Fault) -> None:
        """From now on this happens."""
        with self._lock:
            self.fault, self.requests = fault, []

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        parts = urlsplit(handler.path)
        key = unquote(parts.path).lstrip("/").partition("/")[2]
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            fault = self.fault
            query = parse_qs(parts.query, keep_blank_values=True)
            request = Request(len(self.requests) + 1, handler.command, key, query, headers)
            self.requests.append(request)
        try:
            answer = fault(request, lambda: self._forward(handler, body))
        except ConnectionResetError:
            handler.close_connection = True
            handler.connection.close()
            return
        handler.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() not in _HOP:
                handler.send_header(name, value)
        length = dict(answer.headers).get("Content-Length", "0") if request.method == "HEAD" else str(len(answer.body))
        handler.send_header("Content-Length", length)
        handler.end_headers()
        if request.method != "HEAD":
            handler.wfile.write(answer.body)

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> Answer:
        connection = http.client.HTTPConnection(self._store, timeout=60)
        connection.putrequest(handler.command, handler.path, skip_host=True, skip_accept_encoding=True)
        for name, value in handler.headers.items():
            if name.lower() not in ("expect", "connection"):
                connection.putheader(name, value)
        connection.endheaders(body)
        found = connection.getresponse()
        answer = Answer(found.status, found.getheaders(), found.read())
        connection.close()
        return answer
