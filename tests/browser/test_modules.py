#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs modules.js, the tests of the page's pure modules, in a real browser."""
import http.server
import os
import sys
import threading

from browser import ROOT, Browser

PLACES = {"/static/": os.path.join(ROOT, "web", "static"), "/tests/": os.path.join(ROOT, "tests", "browser")}


class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {".js": "text/javascript", ".html": "text/html", "": "application/octet-stream"}

    def translate_path(self, path):
        for prefix, folder in PLACES.items():
            if path.startswith(prefix):
                return os.path.join(folder, os.path.basename(path))
        return os.devnull

    def do_GET(self):
        if self.path != "/":
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>modules</title>")

    def log_message(self, *_):
        pass


def main():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Browser() as browser:
            page = browser.page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            results = page.evaluate("import('/tests/modules.js').then((tests) => tests.run())")
        server.shutdown()
    for result in results:
        print(f"{'FAIL' if result['error'] else 'ok  '} {result['name']} {result['error']}")
    failed = [result for result in results if result["error"]]
    print(f"{len(results) - len(failed)} of {len(results)} passed")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
