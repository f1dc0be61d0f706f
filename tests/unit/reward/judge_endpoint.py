"""A server on loopback that speaks the chat-completions protocol and can be told to misbehave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What is sent back to one request."""

    status: int = 200
    text: str = ""  # of the judge; or the whole body where `raw`
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    raw: bool = False
    finish: str = "stop"


class JudgeEndpoint:
    """`answer(body)` makes the reply to each request; `script` holds replies that come before.

    Requests are kept in `bodies`, their headers in `headers`.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Reply | str]) -> None:
        self.answer = answer
        self.script: list[Reply] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                endpoint.serve(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.bodies.append(body)
            self.headers.append({name.lower(): each for name, each in handler.headers.items()})
            self.times.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            reply = self.script.pop(0) if self.script else self.answer(body)
        reply = Reply(text=reply) if isinstance(reply, str) else reply
        time.sleep(reply.delay_s)
        with self._lock:
            self._at_once -= 1
        content = self._content(reply).encode()
        try:
            handler.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):  # the client no longer waits
            pass

    def _content(self, reply: Reply) -> str:
        if reply.raw:
            return reply.text
        if reply.status != 200:
            return json.dumps({"error": {"message": reply.text or "no", "type": "server"}})
        message = {"role": "assistant", "content": reply.text}
        return json.dumps(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "judge-model",
                "choices": [{"index": 0, "message": message, "finish_reason": reply.finish}],
                "usage": {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320},
            }
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def rating(value: Any, reason: str = "because") -> str:
    return json.dumps({"reason": reason, "rating": value})


def better(value: str, reason: str = "because") -> str:
    return json.dumps({"reason": reason, "better": value})


def prompt_of(body: dict[str, Any]) -> str:
    (message,) = body["messages"]
    return message["content"]
