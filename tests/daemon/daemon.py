# SPDX-License-Identifier: Apache-2.0
"""A running lightforced and a WebSocket client, with the standard library alone."""
import atexit
import base64
import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import time

HEADER = struct.Struct(">BBHIQQIHHIIQ")
HEADER_FIELDS = ("kind", "flags", "header_bytes", "epoch", "seq", "pts_us", "chunk", "frame_in_chunk", "frames_in_chunk", "revision", "payload_bytes", "sent_ts_us")
PATIENCE_S = 30


class Daemon:
    """Starts the program on a free port of loopback; stop() or kill() ends it."""

    def __init__(self, program, *arguments, environment=None, port=0):
        command = [program, "--listen", f"127.0.0.1:{port}", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
        atexit.register(self.process.kill)  # a failed test leaves none behind
        self.lines = []
        while True:
            line = self.process.stderr.readline()
            self.lines.append(line)
            found = re.search(r"listens on http://127\.0\.0\.1:(\d+)/", line)
            if found:
                self.port = int(found[1])
                break
            if not line:
                raise RuntimeError("the daemon ended: " + "".join(self.lines))

    def wait_line(self, pattern):
        """Reads the log up to a line that matches."""
        while True:
            line = self.process.stderr.readline()
            self.lines.append(line)
            if re.search(pattern, line):
                return line
            if not line:
                raise RuntimeError(f"no line like {pattern}: " + "".join(self.lines))

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        kind = answer.getheader("Content-Type") or ""
        return answer.status, json.loads(text) if "json" in kind else text

    def wait_stage(self, stage):
        """Until /readyz says that loading has come so far."""
        until = time.monotonic() + PATIENCE_S
        while self.request("GET", "/readyz")[1].get("stage") != stage:
            if time.monotonic() > until:
                raise RuntimeError(f"never at {stage}")
            time.sleep(0.01)

    def wait_ready(self):
        until = time.monotonic() + PATIENCE_S
        while self.request("GET", "/readyz")[0] != 200:
            if time.monotonic() > until:
                raise RuntimeError("never ready")
            time.sleep(0.02)

    def end(self, number):
        """Sends a signal; the exit status and the rest of the log."""
        self.process.send_signal(number)
        rest = self.process.communicate(timeout=PATIENCE_S)[1]
        self.lines.append(rest)
        return self.process.returncode, rest

    def stop(self):
        return self.end(signal.SIGTERM)

    def kill(self):
        return self.end(signal.SIGKILL)


class Viewer:
    """One WebSocket; next() gives {"type": ...} texts, frames and the close."""

    def __init__(self, daemon, session_id, since=None):
        self.socket = socket.create_connection(("127.0.0.1", daemon.port), PATIENCE_S)
        query = "" if since is None else f"?since={since}"
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((f"GET /v1/sessions/{session_id}/stream{query} HTTP/1.1\r\nHost: 127.0.0.1:{daemon.port}\r\n"
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: lightforced.v1\r\n\r\n").encode())
        self.buffer = b""
        head = b""
        while b"\r\n\r\n" not in head:
            part = self.socket.recv(4096)
            if not part:
                raise ConnectionError(head.decode())
            head += part
        head, self.buffer = head.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(head.decode())

    def _take(self, size):
        while len(self.buffer) < size:
            part = self.socket.recv(65536)
            if not part:
                raise ConnectionError("the connection ended without a close frame")
            self.buffer += part
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def next(self):
        message, kind = b"", 0
        while True:
            first, length = self._take(2)
            if length == 126:
                length = struct.unpack(">H", self._take(2))[0]
            elif length == 127:
                length = struct.unpack(">Q", self._take(8))[0]
            data, code = self._take(length), first & 15
            if code == 9:
                self._send(10, data)
                continue
            if code == 8:
                return {"type": "close", "code": struct.unpack(">H", data[:2])[0] if data else 1005, "reason": data[2:].decode()}
            kind = code or kind
            message += data
            if first & 128:
                break
        if kind == 1:
            return json.loads(message)
        frame = dict(zip(HEADER_FIELDS, HEADER.unpack(message[:HEADER.size])))
        assert frame["payload_bytes"] == len(message) - frame["header_bytes"]
        return {"type": "frame", **frame}

    def until(self, kind, **fields):
        """Skips to the next message of this type with these values."""
        while True:
            message = self.next()
            if message["type"] == kind and all(message.get(k) == v for k, v in fields.items()):
                return message
            if message["type"] == "close":
                raise ConnectionError(f"closed {message} while waiting for {kind}")

    def _send(self, code, data):
        mask = os.urandom(4)
        size = bytes([128 | len(data)]) if len(data) < 126 else bytes([128 | 126]) + struct.pack(">H", len(data))
        self.socket.sendall(bytes([128 | code]) + size + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def send(self, **message):
        self._send(1, json.dumps(message).encode())

    def close(self):
        self.socket.close()
