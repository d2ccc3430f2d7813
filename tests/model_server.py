"""The bundled model behind an address, in the form of OpenAI's: what a llama-server or vLLM on another machine is to Footnote.

`python -m tests.model_server PORT` serves it until it is interrupted; tests use the class.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import config
from config import Settings
from rag.engine.model import LanguageModel
from rag.types import Turn


class ModelServer(ThreadingHTTPServer):
    """Answers `/tokenize` and streams `/v1/chat/completions`, on 127.0.0.1."""

    daemon_threads = True

    def __init__(self, settings: Settings, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.model = LanguageModel(settings)
        self.answered = 0


class _Handler(BaseHTTPRequestHandler):
    server: ModelServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self._begin("application/json")
            self.wfile.write(json.dumps({"tokens": self.server.model.tokenize(body["content"])}).encode())
            return
        if self.path != "/v1/chat/completions":
            self.send_error(404)
            return
        self._begin("text/event-stream")
        tokens = self.server.model.chat([Turn(each["role"], each["content"]) for each in body["messages"]])
        written = 0
        for piece in self.server.model.generate(tokens, max_tokens=body["max_tokens"]):
            written += 1
            self._say({"choices": [{"delta": {"content": piece}}]})
        self._say({"choices": [], "usage": {"prompt_tokens": len(tokens), "completion_tokens": written}})
        self.wfile.write(b"data: [DONE]\n\n")
        self.server.answered += 1

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def _say(self, event: dict[str, object]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the page that asks shows what there is to show."""


if __name__ == "__main__":
    serving = ModelServer(config.load(), int(sys.argv[1]))
    print(f"Serving {serving.model.name} on http://127.0.0.1:{serving.server_port}")
    try:
        serving.serve_forever()
    except KeyboardInterrupt:
        serving.server_close()
