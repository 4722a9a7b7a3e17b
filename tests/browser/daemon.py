# SPDX-License-Identifier: Apache-2.0
"""The real daemon for browser tests: started on a free port with a state folder of its own, killed as a
crash would, started again in the same place."""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Daemon:
    def __init__(self, program, *arguments):
        self.folder = tempfile.mkdtemp(prefix="lightforced-page-")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [program, "--listen", f"127.0.0.1:{self.port}", "--state-dir", self.folder, *arguments]
        self.log = open(os.path.join(self.folder, "log"), "ab")
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.kill()
        self.log.close()
        if kind:
            with open(self.log.name, encoding="utf-8", errors="replace") as log:
                print("-- the daemon said:\n" + log.read()[-6000:], file=sys.stderr)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, seconds=120, wait=True):
        """wait: until the model is loaded; else only until the port is open."""
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        end = time.monotonic() + seconds
        good = (200,) if wait else (200, 503)
        while self.answer("GET", "/readyz")[0] not in good:
            if self.process.poll() is not None:
                raise AssertionError(f"the daemon ended with {self.process.returncode} while it started")
            if time.monotonic() > end:
                raise AssertionError(f"the daemon was not ready after {seconds} s")
            time.sleep(0.1)

    def kill(self):
        """As kill -9 does: nothing is said to anyone."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def answer(self, method, path, body=None):
        """(status, parsed JSON or None); status 0 when nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"} if data else {}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                text = response.read()
                return response.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")
        except OSError:
            return 0, None
