# SPDX-License-Identifier: Apache-2.0
"""What no honest client sends, over real sockets: every head is refused before a
library sees it, nobody holds a place for ever, and others notice nothing."""

import os
import socket
import time
import unittest

from client import PATIENCE_S, Answer, Daemon, talk


class Abuse(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon('--head-timeout-s', '1', '--body-timeout-s', '2', '--http-timeout-s', '2',
                       '--http-connections-max', '64', '--http-connections-per-ip', '64')

    @classmethod
    def tearDownClass(cls):
        cls.d.__exit__(None, None, None)

    def tearDown(self):
        self.assertEqual(self.d.get('/healthz').status, 200)
        self.assertIsNone(self.d.process.poll())

    def refused(self, data, status, code):
        answer = Answer(talk(self.d.port, data))
        self.assertEqual((answer.status, answer.json['code']), (status, code), data[:80])
        self.assertEqual(answer.headers['content-type'], 'application/problem+json')
        self.assertEqual(answer.headers['connection'], 'close')
        self.assertIn('x-request-id', answer.headers)

    def test_heads_that_could_be_read_two_ways(self):
        host = f'Host: 127.0.0.1:{self.d.port}\r\n'.encode()
        get, post = b'GET /healthz HTTP/1.1\r\n', b'POST /v1/sessions HTTP/1.1\r\n'
        body = b'{"prompt":"smuggled"}'
        for head in (
                post + host + b'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n' + get + host + b'\r\n',
                post + host + b'Transfer-Encoding: chunked\r\n\r\n15\r\n' + body + b'\r\n0\r\n\r\n',
                post + host + b'Content-Length: 21\r\nContent-Length: 5\r\n\r\n' + body,
                post + host + b'Content-Length: 21\r\nContent-Length: 21\r\n\r\n' + body,
                post + host + b'Content-Length : 21\r\n\r\n' + body,
                post + host + b'Content-Length: +21\r\n\r\n' + body,
                post + host + b'Content-Length: 21, 21\r\n\r\n' + body,
                get + b'\r\n', get + host + host + b'\r\n', get + host + b'Host: b\r\n\r\n', get + b'Host:\r\n\r\n',
                get.replace(b'\r\n', b'\n') + host + b'\r\n', get + host.replace(b'\r\n', b'\n') + b'\r\n',
                get + host + b'X: a\r\n b\r\n\r\n', get + host + b'X: a\0b\r\n\r\n', get + host + b'X: a\rb\r\n\r\n',
                get + b'Host : 127.0.0.1\r\n\r\n', b'GET http://127.0.0.1/healthz HTTP/1.1\r\n' + host + b'\r\n',
                b'GET /healthz HTTP/9.9\r\n' + host + b'\r\n', b'GET /healthz\r\n' + host + b'\r\n', b'\r\n' + get + host + b'\r\n',
                b'CONNECT a:1 HTTP/1.1\r\n' + host + b'\r\n', b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
        ):
            self.refused(head, 400, 'bad_request')
        self.assertEqual(self.d.get('/v1/sessions').json['sessions'], [])

    def test_huge_heads(self):
        host = f'Host: 127.0.0.1:{self.d.port}\r\n'.encode()
        self.refused(b'GET /' + b'a' * 40000 + b' HTTP/1.1\r\n' + host + b'\r\n', 431, 'header_too_large')
        self.refused(b'GET / HTTP/1.1\r\n' + host + b'X: ' + b'a' * 40000 + b'\r\n\r\n', 431, 'header_too_large')
        self.refused(b'GET / HTTP/1.1\r\n' + host + b'X: a\r\n' * 200 + b'\r\n', 431, 'header_too_large')
        # What fits does pass, to the library behind as well.
        fits = b'GET /healthz HTTP/1.1\r\n' + host + b'X: ' + b'a' * 15000 + b'\r\n\r\n'
        self.assertEqual(Answer(talk(self.d.port, fits)).status, 200)

    def drip(self, start, more=b'a', seconds=15):
        """Seconds until the daemon gives up on one who sends a byte now and then; what it said."""
        with socket.create_connection(('127.0.0.1', self.d.port)) as s:
            s.sendall(start)
            s.settimeout(0.1)
            begun, said = time.monotonic(), b''
            while time.monotonic() - begun < seconds:
                try:
                    piece = s.recv(4096)
                    if not piece:
                        break
                    said += piece
                    continue
                except socket.timeout:
                    pass
                except OSError:
                    break
                try:
                    s.sendall(more)
                except OSError:
                    break
            return time.monotonic() - begun, said

    def test_dripping_heads_are_cut(self):
        held, said = self.drip(b'GET /healthz HTTP/1.1\r\nX: ')
        self.assertLess(held, 10)
        self.assertEqual(Answer(said).status, 408)
        held, said = self.drip(b'', b'')
        self.assertLess(held, 10)
        self.assertEqual(said, b'')

    def test_who_leaves_within_a_head_holds_no_place(self):
        with Daemon('--head-timeout-s', '600') as d:
            held = lambda: len(os.listdir(f'/proc/{d.process.pid}/fd'))
            before = held()
            for _ in range(20):
                with socket.create_connection(('127.0.0.1', d.port)) as s:
                    s.sendall(b'GET /healthz HTTP/1.1\r\nX: ')
            until = time.monotonic() + PATIENCE_S
            while held() > before:
                self.assertLess(time.monotonic(), until)
                time.sleep(0.05)

    def test_dripping_bodies_are_cut(self):
        head = (f'POST /v1/sessions HTTP/1.1\r\nHost: 127.0.0.1:{self.d.port}\r\nContent-Type: application/json\r\n'
                'Content-Length: 5000\r\n\r\n').encode()
        held, _ = self.drip(head)
        self.assertLess(held, 12)

    def test_idle_crowds_do_not_lock_others_out(self):
        crowd = [socket.create_connection(('127.0.0.1', self.d.port)) for _ in range(300)]
        self.assertEqual(self.d.get('/healthz').status, 200)
        for s in crowd:
            s.close()

    def test_answers_that_nobody_reads(self):
        crowd = []
        for _ in range(50):
            s = socket.create_connection(('127.0.0.1', self.d.port))
            s.sendall(b'GET /static/main.js HTTP/1.1\r\nHost: localhost\r\n\r\n')
            crowd.append(s)
        self.assertEqual(self.d.get('/healthz').status, 200)
        for s in crowd:
            s.close()

    def test_broken_websocket_frames(self):
        session = self.d.create()['id']
        good = self.d.stream(session)
        good.frames(1)
        for data in (b'\xff\xff\xff\xff' * 8, b'\x83\x80\0\0\0\0', b'\x89\xfe\x00\x7e\0\0\0\0' + b'a' * 126,
                     b'\x81\x82\0\0\0\0\xff\xfe', b'\x80\x81\0\0\0\0a', b'\xc1\x81\0\0\0\0a', b'\x81\xff' + b'\xff' * 12):
            bad = self.d.stream(session)
            bad.frames(1)
            bad.sock.sendall(data)
            bad.close()
        frames = good.frames(30)
        self.assertEqual(frames[-1].seq - frames[0].seq, 29)
        self.d.delete(f'/v1/sessions/{session}')


if __name__ == '__main__':
    unittest.main(warnings='ignore')
