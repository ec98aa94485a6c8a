"""A stand-in for the HTTP interface of the Hugging Face hub, as far as an upload uses it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml

# Files with these endings are transferred apart from the commit.
LARGE = (".safetensors", ".npz")


@dataclass
class Hub:
    """The state of the stand-in.

    url: its address.
    private: of each repository, whether it is private.
    files: of each repository, its files.
    large: content of large files, by SHA-256.
    refusals: status and message for requests whose path matches an expression.
    requests: method and path of all requests.
    """

    url: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> tuple[int, Any]:
        """Return status and content of the response to a request."""
        self.requests.append(f"{method} {path}")
        for pattern, (status, message) in self.refusals.items():
            if re.search(pattern, path):
                return status, {"error": message}
        if path == "/":
            return 200, {}
        if path.startswith("/lfs/"):
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/lfs/")
            self.large[path.removeprefix("/lfs/")] = body
            return 200, {}
        if token != "Bearer hf_made_up":
            return 401, {"error": "Invalid credentials"}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        repo = re.search(r"^(?:/api/models)?/([\w-]+/[\w-]+)", path)
        if repo is None or repo[1] not in self.files:
            return 404, {"error": "Repository not found"}
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            upload = [{"upload": {"href": f"{self.url}/lfs/{one['oid']}"}} for one in objects]
            return 200, {"objects": [one | {"actions": to} for one, to in zip(objects, upload, strict=True)]}
        if path.endswith("/preupload/main"):
            modes = {file["path"]: file["path"].endswith(LARGE) for file in json.loads(body)["files"]}
            described = [
                {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
                for name, large in modes.items()
            ]
            return 200, {"files": described}
        if path.endswith("/commit/main"):
            return self._commit(repo[1], [json.loads(line) for line in body.splitlines()])
        return 200, {"id": repo[1], "private": self.private[repo[1]], "sha": "0" * 40}

    def _create(self, asked: dict) -> tuple[int, Any]:
        name = f"{asked['organization']}/{asked['name']}"
        content = {"url": f"{self.url}/{name}"}
        if name in self.files:
            return 409, content | {"error": "You already created this model repo"}
        # Versions of huggingface_hub differ in the key.
        self.private[name] = asked.get("private") is True or asked.get("visibility") == "private"
        self.files[name] = {}
        return 200, content

    def _validate(self, card: str) -> tuple[int, Any]:
        """Check what https://github.com/huggingface/hub-docs/blob/main/modelcard.md says of the metadata."""
        errors, data = [], yaml.safe_load(card.split("---\n")[1])
        if data["license"] == "other" and not re.fullmatch(r"[a-z0-9.-]+", data["license_name"]):
            errors.append("license_name must be an id")
        for model in data["model-index"]:
            for result in model["results"]:
                if not {"task", "dataset", "metrics"} <= result.keys() or "type" not in result["task"]:
                    errors.append("model-index lacks a key")
                if not all(isinstance(metric["value"], float) and metric["type"] for metric in result["metrics"]):
                    errors.append("a metric has no value")
        messages = [{"message": error} for error in errors]
        return (400 if errors else 200), {"errors": messages, "warnings": []}

    def _commit(self, repo: str, lines: list[dict]) -> tuple[int, Any]:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[repo][value["path"]] = self.large[value["oid"]]
        return 200, {"commitUrl": f"{self.url}/{repo}/commit/{'1' * 40}", "commitOid": "1" * 40}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve the stand-in in a thread."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            token = self.headers.get("authorization")
            status, content = hub.answer(self.command, self.path.partition("?")[0], token, self.body())
            sent = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def body(self) -> bytes:
            if self.headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("content-length", 0)))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        do_GET = do_POST = do_PUT = respond

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield hub
        server.shutdown()
        thread.join()
