"""A webhook on the loopback; the standard library alone, so that Airflow's Python runs it too."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer


class Webhook:
    """Gives its address while it is open, and keeps what was posted to it in `heard`."""

    def __init__(self, heard: list[dict[str, str]]) -> None:
        class Hook(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *words: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Hook)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}/a-secret"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
