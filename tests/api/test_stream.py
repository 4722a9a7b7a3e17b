# SPDX-License-Identifier: Apache-2.0
"""The frame stream of the real daemon: joining, returning, steering, slowness."""

import threading
import time
import unittest

from client import Closed, Daemon, Frame, Socket


def follow(test, frames):
    """Frames that a decoder can take: in order, no gap but before a key frame."""
    last = None
    for f in frames:
        test.assertEqual((f.kind, f.header_bytes, f.payload_bytes), (1, 48, len(f.payload)))
        test.assertTrue(f.key if last is None else f.seq == last + 1 or (f.key and f.seq > last))
        last = f.seq


class Stream(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon()

    @classmethod
    def tearDownClass(cls):
        cls.d.__exit__(None, None, None)

    def setUp(self):
        self.session = self.d.create()['id']
        self.addCleanup(self.d.delete, f'/v1/sessions/{self.session}')

    def join(self, query='', **more):
        w = self.d.stream(self.session, query, **more)
        self.addCleanup(w.close)
        return w

    def test_hello_then_config_then_frames(self):
        w = self.join()
        self.assertEqual(w.status, 101)
        self.assertIn('Sec-WebSocket-Protocol: lightforced.v1', w.head)
        self.assertNotIn('Extensions', w.head)
        hello = w.receive()
        self.assertEqual((hello['type'], hello['protocol'], hello['session'], hello['resumed']),
                         ('hello', 'lightforced.v1', self.session, False))
        self.assertEqual(hello['state']['prompts'][0]['text'], 'a red kite')
        self.assertTrue(hello['capabilities']['modes'])
        config = w.until(lambda m: isinstance(m, Frame) or m['type'] == 'video.config')
        self.assertEqual((config['type'], config['width'], config['height']), ('video.config', 256, 144))
        frames = w.frames(30)
        follow(self, frames)
        first = frames[0]
        self.assertEqual((first.index, first.of, first.revision, first.flags & 4), (0, 12, 1, 4))
        self.assertTrue(all(b.pts_us > a.pts_us and b.sent_ts_us >= a.sent_ts_us for a, b in zip(frames, frames[1:])))

    def test_late_joiners_begin_at_the_last_key(self):
        early = self.join()
        seen = early.frames(20)
        late = self.join()
        hello = late.until('hello')
        frames = late.frames(20)
        follow(self, frames)
        self.assertEqual(hello['first_seq'], frames[0].seq)
        self.assertTrue(frames[0].key and frames[0].replayed)
        self.assertLessEqual(frames[0].seq, seen[-1].seq)
        ours = {f.seq: f.payload for f in seen + early.frames(20)}
        common = [f for f in frames if f.seq in ours]
        self.assertTrue(common)
        self.assertTrue(all(f.payload == ours[f.seq] for f in common))

    def test_who_returns_misses_nothing(self):
        w = self.join()
        last = w.frames(15)[-1].seq
        w.close()
        time.sleep(0.5)
        back = self.join(f'?since={last}')
        hello = back.until('hello')
        self.assertEqual((hello['resumed'], hello['first_seq']), (True, last + 1))
        self.assertEqual([f.seq for f in back.frames(20)], list(range(last + 1, last + 21)))

    def test_who_was_away_too_long_begins_anew(self):
        self.join().frames(1)
        back = self.join('?since=99999999')
        self.assertFalse(back.until('hello')['resumed'])
        self.assertTrue(back.frames(1)[0].key)
        bad = self.join('?since=x')
        self.assertEqual(bad.status, 400)

    def test_prompts_take_effect_on_the_very_frame(self):
        w = self.join()
        w.frames(1)
        w.send(type='prompt.set', event_id='e1', text='a green field', transition={'mode': 'cut'})
        accepted = w.until('prompt.accepted')
        self.assertEqual((accepted['event_id'], accepted['id'], accepted['revision']), ('e1', 'p2', 2))
        applied = w.until('prompt.applied')
        frame = w.until(lambda m: isinstance(m, Frame) and m.revision == 2)
        self.assertEqual((applied['seq'], applied['chunk']), (frame.seq, frame.chunk))
        self.assertTrue(frame.key and frame.epoch == 2)

    def test_other_viewers_hear_of_it(self):
        one, two = self.join(), self.join()
        two.until('hello')
        one.send(type='prompt.set', event_id='e2', text='rain')
        prompt, viewers = two.every(
            'prompt.accepted', lambda m: isinstance(m, dict) and m['type'] == 'session.viewers' and m['viewers'] == 2)
        self.assertEqual(prompt['text'], 'rain')
        self.assertEqual(viewers['session'], self.session)

    def test_refusals_leave_the_socket_open(self):
        w = self.join()
        w.send(type='dance')
        self.assertEqual(w.until('error')['code'], 'invalid_field')
        w.send(type='prompt.set', event_id='e3', text='')
        self.assertEqual(w.until('prompt.rejected')['event_id'], 'e3')
        w.send_raw(1, b'{')
        self.assertEqual(w.until('error')['code'], 'invalid_json')
        w.send(type='ping', id='abc')
        self.assertEqual(w.until('pong')['id'], 'abc')

    def test_what_is_said_is_described(self):
        described = self.d.get('/asyncapi.json').json['components']['messages']
        s = self.d.create()['id']
        k = self.d.stream(s)
        k.send(type='prompt.set', text='later', at={'chunk': 900})
        k.send(type='prompt.set', text='later still', at={'chunk': 900})
        k.send(type='prompt.set', text='')
        k.send(type='prompt.cancel', id='p3')
        k.send(type='subscribe', topics=['viewer.stats'])
        k.send(type='control', action='pause')
        k.send(type='ping')
        k.send(type='what')
        said = set()
        while not {'prompt.cancelled', 'prompt.superseded', 'prompt.rejected', 'viewer.stats', 'control.accepted', 'pong',
                   'error', 'session.state'} <= said:
            message = k.receive()
            self.assertIsNotNone(message, said)
            if not isinstance(message, Frame):
                said.add(message['type'])
        self.assertEqual(said - set(described), set())
        k.close()

    def test_pause_and_resume(self):
        w = self.join()
        w.frames(1)
        w.send(type='control', action='pause', event_id='c1')
        self.assertEqual(w.until('control.accepted')['event_id'], 'c1')
        w.until(lambda m: isinstance(m, dict) and m['type'] == 'session.state' and m['state'] == 'paused')
        time.sleep(0.3)
        while isinstance(w.receive(0.3), (dict, Frame)):
            pass
        self.assertIsNone(w.receive(1.0))
        w.send(type='control', action='resume')
        w.until(lambda m: isinstance(m, dict) and m['type'] == 'session.state' and m['state'] == 'running')
        w.frames(1)

    def test_hidden_viewers_get_no_frames(self):
        w, other = self.join(), self.join()
        seen = w.frames(1)[0].seq
        w.send(type='viewer.visible', visible=False)
        w.send(type='ping', id=1)
        w.until('pong')
        until = time.monotonic() + 1.2
        while (left := until - time.monotonic()) > 0:
            self.assertNotIsInstance(w.receive(left), Frame)
        self.assertGreater(other.frames(20)[-1].seq, seen)
        w.send(type='viewer.visible', visible=True)
        frames = w.frames(15)
        follow(self, frames)

    def test_key_frames_on_demand(self):
        w = self.join()
        w.frames(14)
        w.send(type='keyframe.request')
        keys = [f for f in w.frames(30) if f.key]
        self.assertTrue(keys)

    def test_statistics_are_opt_in(self):
        w = self.join()
        w.send(type='subscribe', topics=['viewer.stats'])
        self.assertEqual(w.until('subscribed')['topics'], ['viewer.stats'])
        stats = w.until(lambda m: isinstance(m, dict) and m['type'] == 'viewer.stats' and m['sent_frames'] > 0)
        self.assertEqual(stats['dropped_frames'], 0)

    def test_wrong_frames_are_closed(self):
        for opcode, data, code in ((2, b'abc', 1003), (1, b'"' + b'a' * 65535 + b'"', 1009)):
            w = self.join()
            w.frames(1)
            w.send_raw(opcode, data)
            got, reason = w.until_closed()
            self.assertEqual(got, code)
            self.assertTrue(reason)
        w = self.join()  # in pieces: counted as one message; none after the last that counts, or TCP may reset the answer away
        for i in range(17):
            w.send_raw(1 if i == 0 else 0, b'a' * 4096, fin=False)
        self.assertEqual(w.until_closed()[0], 1009)
        self.join().frames(1)

    def test_sessions_that_are_not_there(self):
        for name, code in (('s_unknown', 4404), ('x' * 60, 4404)):
            w = Socket(self.d.port, f'/v1/sessions/{name}/stream')
            self.assertEqual(w.status, 101)
            got, reason = w.until_closed()
            self.assertEqual(got, code)
            self.assertTrue(reason)

    def test_the_end_of_a_session(self):
        w = self.join()
        w.frames(1)
        self.d.delete(f'/v1/sessions/{self.session}')
        self.assertEqual(w.until_closed()[0], 1000)
        self.assertEqual(Socket(self.d.port, f'/v1/sessions/{self.session}/stream').until_closed()[0], 4410)

    def test_refused_handshakes(self):
        path = f'/v1/sessions/{self.session}/stream'
        for change, status, code in (({'protocol': 'chat'}, 400, 'bad_subprotocol'), ({'protocol': None}, 400, 'bad_subprotocol'),
                                     ({'Sec_WebSocket_Version': '8'}, 426, 'upgrade_required'),
                                     ({'Sec_WebSocket_Key': 'x'}, 400, 'bad_request'), ({'Upgrade': None}, 426, 'upgrade_required'),
                                     ({'Origin': 'http://evil.example'}, 403, 'forbidden_origin'),
                                     ({'Host': 'evil.example'}, 421, 'host_not_allowed')):
            w = Socket(self.d.port, path, **change)
            self.assertEqual(w.status, status, change)
            self.assertIn(f'"code":"{code}"', w.buffer.decode() or w.sock.recv(65536).decode())
            w.close()


class Limits(unittest.TestCase):
    def test_full(self):
        with Daemon('--viewers-per-session-max', '2') as d:
            s = d.create()['id']
            stay = [d.stream(s) for _ in range(2)]
            for w in stay:
                w.frames(1)
            code, reason = d.stream(s).until_closed()
            self.assertEqual(code, 1013)
            self.assertIn('full', reason)
            stay.pop().close()
            time.sleep(0.3)
            d.stream(s).frames(1)

    def test_slow_viewers_lose_frames_and_nobody_else_does(self):
        # Noise that VP9 cannot compress away: some Mbit/s.
        with Daemon('--viewer-behind-s', '4', '--rate-control', 'quality',
                    backend='test:width=640,height=360,noise=40') as d:
            s = d.create()['id']
            fast = [d.stream(s) for _ in range(2)]
            slow = d.stream(s, rcvbuf=4096)
            frozen = d.stream(s, rcvbuf=4096)
            heard, over = {}, threading.Event()

            def listen(i, w):
                heard[i] = []
                while not over.is_set():
                    m = w.receive(0.5)
                    if isinstance(m, Frame):
                        heard[i].append(m)

            readers = [threading.Thread(target=listen, args=(i, w)) for i, w in enumerate(fast)]
            for r in readers:
                r.start()
            slow.until('hello')
            time.sleep(3)  # the slow one stands still, then reads on
            lag = slow.until('viewer.lag')
            after = slow.until(lambda m: isinstance(m, Frame))
            time.sleep(5)
            over.set()
            for r in readers:
                r.join()
            self.assertEqual(lag['dropped_frames'], lag['to_seq'] - lag['from_seq'] + 1)
            self.assertTrue(after.key and after.seq == lag['to_seq'] + 1)
            code, reason = frozen.until_closed()
            self.assertEqual(code, 1013, reason)
            for frames in heard.values():
                follow(self, frames)
                self.assertEqual(frames[-1].seq - frames[0].seq + 1, len(frames), 'a fast viewer lost frames')
            span_s = (heard[0][-1].pts_us - heard[0][0].pts_us) / 1e6
            mbit = sum(f.payload_bytes for f in heard[0]) * 8 / 1e6 / span_s
            self.assertGreater(mbit, 2, 'the feed is too thin to make anybody slow')

    def test_the_end_reaches_the_slow_too(self):
        with Daemon(backend='test:width=640,height=360,noise=40') as d:
            s = d.create()['id']
            slow = d.stream(s, rcvbuf=4096)
            slow.until('hello')
            time.sleep(3.5)
            d.delete(f'/v1/sessions/{s}')
            self.assertEqual(slow.until_closed()[0], 1000)

    def test_a_hundred_viewers(self):
        with Daemon() as d:
            s = d.create()['id']
            viewers = [d.stream(s) for _ in range(100)]
            frames = [w.frames(40) for w in viewers]
            for got in frames:
                follow(self, got)
                self.assertEqual(got[-1].seq - got[0].seq, 39, 'a frame was lost')
            self.assertEqual(d.get('/v1/status').json['viewers'], 100)
            for w in viewers:
                w.close()
            self.assertEqual(d.stop(), 0)


class Lifetime(unittest.TestCase):
    def test_sigterm_drains(self):
        with Daemon() as d:
            w = d.stream(d.create()['id'])
            w.frames(1)
            self.assertEqual(d.stop(), 0)
            notices = []
            try:
                while True:
                    m = w.receive(5)
                    if isinstance(m, dict):
                        notices.append(m['type'])
            except Closed as closed:
                self.assertEqual(closed.code, 1001)
            self.assertIn('notice', notices)

    def test_back_after_kill(self):
        with Daemon() as first:
            s = first.create(seed=7)['id']
            w = first.stream(s)
            w.frames(3)
            w.send(type='prompt.set', text='a blue boat')
            before = w.until(lambda m: isinstance(m, Frame) and m.revision == 2)
            time.sleep(0.3)
            first.kill()
            with Daemon(state_dir=first.state_dir) as second:
                back = second.stream(s, f'?since={before.seq}')
                hello = back.until('hello')
                self.assertEqual((hello['state']['id'], hello['resumed']), (s, False))
                frame = back.frames(1)[0]
                self.assertTrue(frame.key)
                self.assertGreater(frame.epoch, before.epoch)
                self.assertGreater(frame.seq, before.seq)
                self.assertEqual(frame.revision, 2)

    def test_one_session_fails_alone(self):
        with Daemon(backend='test:fail_word=doom') as d:
            good, bad = d.create()['id'], d.create()['id']
            healthy, ill = d.stream(good), d.stream(bad)
            ill.frames(1)
            ill.send(type='prompt.set', text='doom')
            self.assertEqual(ill.until_closed()[0], 1011)
            got = healthy.frames(60)
            follow(self, got)
            self.assertEqual(got[-1].seq - got[0].seq, 59)
            self.assertEqual(d.get('/healthz').status, 200)


if __name__ == '__main__':
    unittest.main(warnings='ignore')
