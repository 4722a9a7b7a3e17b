# SPDX-License-Identifier: Apache-2.0
"""What the tests of the daemon share: starting and ending it, plain HTTP over a
raw socket, and a WebSocket client of our own (no library: tests must also send
what no library would). Standard library only."""

import base64
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

PATIENCE_S = 20  # how long anything may take before a test gives up


class Frame:
    """One binary message: the 48-byte header and what follows it."""

    def __init__(self, data):
        (self.kind, self.flags, self.header_bytes, self.epoch, self.seq, self.pts_us, self.chunk, self.index, self.of,
         self.revision, self.payload_bytes, self.sent_ts_us) = struct.unpack('>BBHIQQIHHIIQ', data[:48])
        self.payload = data[self.header_bytes:]
        self.key, self.replayed = bool(self.flags & 1), bool(self.flags & 16)


class Closed(Exception):
    def __init__(self, code, reason):
        super().__init__(f'closed {code} {reason}')
        self.code, self.reason = code, reason


class Socket:
    """A WebSocket client. Messages come as dict (text) or Frame (binary)."""

    def __init__(self, port, path, protocol='lightforced.v1', rcvbuf=0, headers=(), **replace):
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(('127.0.0.1', port))
        self.buffer = b''
        fields = {'Host': f'127.0.0.1:{port}', 'Upgrade': 'websocket', 'Connection': 'Upgrade',
                  'Sec-WebSocket-Key': base64.b64encode(os.urandom(16)).decode(), 'Sec-WebSocket-Version': '13',
                  'Sec-WebSocket-Protocol': protocol}
        fields.update({name.replace('_', '-'): value for name, value in replace.items()})
        head = f'GET {path} HTTP/1.1\r\n' + ''.join(f'{k}: {v}\r\n' for k, v in fields.items() if v is not None)
        self.sock.sendall((head + ''.join(headers) + '\r\n').encode())
        while b'\r\n\r\n' not in self.buffer:
            self._fill()
        head, self.buffer = self.buffer.split(b'\r\n\r\n', 1)
        self.head = head.decode()
        self.status = int(self.head.split()[1])

    def _fill(self):
        data = self.sock.recv(65536)
        if not data:
            raise Closed(1006, 'end of stream')
        self.buffer += data

    def _take(self, n):
        while len(self.buffer) < n:
            self._fill()
        data, self.buffer = self.buffer[:n], self.buffer[n:]
        return data

    def send_raw(self, opcode, data, fin=True):
        mask = os.urandom(4)
        size = bytes([0x80 | len(data)]) if len(data) < 126 else (
            bytes([0x80 | 126]) + struct.pack('>H', len(data)) if len(data) < 65536 else
            bytes([0x80 | 127]) + struct.pack('>Q', len(data)))
        body = bytes(b ^ mask[i % 4] for i, b in enumerate(data))
        self.sock.sendall(bytes([(0x80 if fin else 0) | opcode]) + size + mask + body)

    def send(self, **message):
        self.send_raw(1, json.dumps(message).encode())

    def receive(self, timeout=PATIENCE_S):
        """Next message; None when the time is over."""
        until = time.monotonic() + timeout
        while True:
            left = until - time.monotonic()
            if len(self.buffer) < 2 and (left <= 0 or not select.select([self.sock], [], [], left)[0]):
                return None
            first, second = self._take(2)
            size = second & 127
            if size == 126:
                size = struct.unpack('>H', self._take(2))[0]
            elif size == 127:
                size = struct.unpack('>Q', self._take(8))[0]
            data, opcode = self._take(size), first & 15
            assert first & 0x80 and not second & 0x80, 'server frames are whole and not masked'
            if opcode == 1:
                return json.loads(data)
            if opcode == 2:
                return Frame(data)
            if opcode == 9:
                self.send_raw(10, data)
            if opcode == 8:
                code = struct.unpack('>H', data[:2])[0] if data else 1005
                raise Closed(code, data[2:].decode())

    def every(self, *wanted, timeout=PATIENCE_S):
        """Skips until the first message of each kind wanted has come, in whatever order they come; gives them
        in the order they were asked for. A kind is a type, or a function that is true of the message."""
        end, found = time.monotonic() + timeout, {}
        while len(found) < len(wanted):
            left = end - time.monotonic()
            message = self.receive(left) if left > 0 else None
            if message is None:
                missing = [w for i, w in enumerate(wanted) if i not in found]
                raise AssertionError(f'{missing} did not come within {timeout} s')
            for i, w in enumerate(wanted):
                if i not in found and (w(message) if callable(w) else isinstance(message, dict) and message['type'] == w):
                    found[i] = message
        return [found[i] for i in range(len(wanted))]

    def until(self, wanted, timeout=PATIENCE_S):
        """Skips to the first message that wanted(message) is true of, or of that type; gives it."""
        return self.every(wanted, timeout=timeout)[0]

    def frames(self, count, timeout=PATIENCE_S):
        return [self.until(lambda m: isinstance(m, Frame), timeout) for _ in range(count)]

    def until_closed(self, timeout=PATIENCE_S):
        end = time.monotonic() + timeout
        try:
            while time.monotonic() < end:
                self.receive(end - time.monotonic())
        except Closed as closed:
            return closed.code, closed.reason
        raise AssertionError('was not closed')

    def close(self):
        self.sock.close()


def talk(port, data, timeout=PATIENCE_S):
    """Sends bytes as they are; all that comes back until the end of the stream."""
    with socket.create_connection(('127.0.0.1', port), timeout) as s:
        s.sendall(data)
        answer = b''
        while piece := s.recv(65536):
            answer += piece
    return answer


class Answer:
    def __init__(self, data):
        head, self.body = data.split(b'\r\n\r\n', 1)
        lines = head.decode().split('\r\n')
        self.status = int(lines[0].split()[1])
        self.headers = {k.lower(): v.strip() for k, v in (line.split(':', 1) for line in lines[1:])}

    @property
    def json(self):
        return json.loads(self.body)


class Daemon:
    """The program under test (LIGHTFORCED names it), on a port of its own."""

    def __init__(self, *arguments, backend='test', state_dir=None, env=None):
        self.folder = tempfile.TemporaryDirectory()
        self.state_dir = state_dir or self.folder.name
        self.log = open(os.path.join(self.folder.name, 'log'), 'w+')
        program = os.environ['LIGHTFORCED']
        self.process = subprocess.Popen(
            [program, '--listen', '127.0.0.1:0', '--backend', backend, '--state-dir', self.state_dir, *arguments],
            stderr=self.log, env={**os.environ, **(env or {})})
        self.port = self._find_port()
        self.wait_ready()

    def lines(self):
        self.log.seek(0)
        return self.log.read()

    def _find_port(self):
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and self.process.poll() is None:
            for line in self.lines().splitlines():
                if 'listens on http://' in line:
                    return int(line.rsplit(':', 1)[1].rstrip('/'))
            time.sleep(0.02)
        raise AssertionError('the daemon did not open its port:\n' + self.lines())

    def wait_ready(self):
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if self.get('/readyz').status == 200:
                    return
            except ConnectionRefusedError:  # it ends, having said why
                pass
            time.sleep(0.05)
        raise AssertionError('the daemon did not become ready:\n' + self.lines())

    def request(self, method, path, body=None, headers=None):
        data = body if isinstance(body, bytes) else b'' if body is None else json.dumps(body).encode()
        fields = {'Host': f'127.0.0.1:{self.port}', **({'Content-Type': 'application/json'} if body is not None else {}),
                  **({'Content-Length': str(len(data))} if body is not None else {}), **(headers or {})}
        head = f'{method} {path} HTTP/1.1\r\n' + ''.join(f'{k}: {v}\r\n' for k, v in fields.items() if v is not None)
        return Answer(talk(self.port, head.encode() + b'\r\n' + data))

    def get(self, path, **headers):
        return self.request('GET', path, None, headers)

    def post(self, path, body=None, headers=None):
        return self.request('POST', path, body, headers)

    def delete(self, path):
        return self.request('DELETE', path)

    def create(self, prompt='a red kite', **more):
        answer = self.post('/v1/sessions', {'prompt': prompt, **more})
        assert answer.status == 201, answer.body
        return answer.json

    def stream(self, session, query='', **more):
        return Socket(self.port, f'/v1/sessions/{session}/stream{query}', **more)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, timeout=PATIENCE_S):
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            sys.stderr.write(self.lines())
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.folder.cleanup()
