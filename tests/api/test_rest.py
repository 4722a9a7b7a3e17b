# SPDX-License-Identifier: Apache-2.0
"""The REST side of the real daemon, and its page."""

import unittest

from client import Answer, Daemon, talk


class Rest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon('--config', '/dev/null')

    @classmethod
    def tearDownClass(cls):
        cls.d.__exit__(None, None, None)

    def tearDown(self):
        for session in self.d.get('/v1/sessions').json['sessions']:
            self.d.delete(f'/v1/sessions/{session["id"]}')

    def refused(self, answer, status, code, field=None):
        self.assertEqual((answer.status, answer.json['code'], answer.json.get('field')), (status, code, field), answer.body)
        self.assertEqual(answer.headers['content-type'], 'application/problem+json')
        self.assertEqual(answer.json['status'], status)
        self.assertTrue(answer.headers['x-request-id'].startswith('req_'))

    def test_create_echoes_every_effective_value(self):
        answer = self.d.post('/v1/sessions', {'prompt': 'a kite', 'seed': 42, 'labels': {'show': 'foyer'}})
        self.assertEqual(answer.status, 201)
        s = answer.json
        self.assertEqual(answer.headers['location'], f'/v1/sessions/{s["id"]}')
        self.assertEqual(s['links']['stream'], f'/v1/sessions/{s["id"]}/stream')
        self.assertEqual((s['prompt'], s['seed'], s['labels'], s['pace'], s['start'], s['max_chunks']),
                         ('a kite', 42, {'show': 'foyer'}, 'realtime', 'auto', 0))
        self.assertEqual(s['video']['codec'], 'vp9')
        self.assertEqual(s['when_unwatched']['action'], 'pause')
        self.assertEqual(self.d.get(f'/v1/sessions/{s["id"]}').json['seed'], 42)

    def test_a_session_from_birth_to_410(self):
        s = self.d.create()['id']
        answer = self.d.post(f'/v1/sessions/{s}/prompts', {'event_id': 'c-1', 'text': 'snow', 'transition': {'mode': 'cut'}})
        self.assertEqual((answer.status, answer.json['id'], answer.json['revision'], answer.json['event_id']), (202, 'p2', 2, 'c-1'))
        self.assertEqual(self.d.post(f'/v1/sessions/{s}/pause').status, 202)
        self.assertEqual(self.d.post(f'/v1/sessions/{s}/resume').status, 202)
        self.assertIn('p2', [p['id'] for p in self.d.get(f'/v1/sessions/{s}/prompts').json['prompts']])
        self.assertEqual(self.d.delete(f'/v1/sessions/{s}').status, 204)
        self.refused(self.d.get(f'/v1/sessions/{s}'), 410, 'gone')
        self.refused(self.d.post(f'/v1/sessions/{s}/prompts', {'text': 'a'}), 410, 'gone')

    def test_prompts_are_checked(self):
        self.refused(self.d.post('/v1/sessions', {'prompt': ''}), 422, 'prompt_empty', 'prompt')
        self.refused(self.d.post('/v1/sessions', {'prompt': ' \t\n'}), 422, 'prompt_empty', 'prompt')
        self.refused(self.d.post('/v1/sessions', {'prompt': 'word ' * 900}), 422, 'prompt_too_long', 'prompt')
        self.refused(self.d.post('/v1/sessions', b'{"prompt":"\xff"}'), 422, 'invalid_utf8')
        s = self.d.create()['id']
        self.refused(self.d.post(f'/v1/sessions/{s}/prompts', {'text': ''}), 422, 'prompt_empty', 'text')
        self.d.stream(s).frames(1)
        self.refused(self.d.post(f'/v1/sessions/{s}/prompts', {'text': 'a', 'at': {'chunk': 0}}), 409, 'chunk_in_past', 'at.chunk')

    def test_bad_input_is_named(self):
        self.refused(self.d.post('/v1/sessions', b'{'), 400, 'invalid_json')
        self.refused(self.d.post('/v1/sessions', {'prompt': 'a', 'guidance_scale': 5}), 422, 'unsupported_field', 'guidance_scale')
        self.refused(self.d.post('/v1/sessions', {'prompt': 'a', 'max_chunks': 2**31}), 422, 'invalid_field', 'max_chunks')
        self.assertIn('from 0 to 2147483647', self.d.post('/v1/sessions', {'prompt': 'a', 'max_chunks': -1}).json['detail'])
        self.refused(self.d.post('/v1/sessions', {'prompt': 'a', 'seed': 2**53}), 422, 'invalid_field', 'seed')
        self.refused(self.d.post('/v1/sessions', b'{"prompt":"a"}', {'Content-Type': 'text/plain'}), 415, 'unsupported_media_type')
        self.refused(self.d.get('/v1/sessions/s_unknown'), 404, 'not_found')
        self.refused(self.d.request('PUT', '/v1/sessions'), 405, 'method_not_allowed')
        self.assertEqual(self.d.request('PATCH', '/v1/sessions').headers['allow'], 'POST, GET, HEAD')

    def test_bodies_are_bounded(self):
        big = b'{"prompt":"' + b'a' * 70000 + b'"}'
        answer = self.d.post('/v1/sessions', big)
        self.refused(answer, 413, 'body_too_large')

    def test_slots_are_bounded(self):
        made = [self.d.create() for _ in range(2)]
        answer = self.d.post('/v1/sessions', {'prompt': 'a'})
        self.refused(answer, 503, 'session_limit')
        self.assertEqual(len(self.d.get('/v1/sessions').json['sessions']), len(made))

    def test_a_repeated_create_makes_one(self):
        answers = [self.d.post('/v1/sessions', {'prompt': 'a'}, {'Idempotency-Key': 'same'}) for _ in range(3)]
        self.assertEqual([a.status for a in answers], [201] * 3)
        self.assertEqual(len({a.json['id'] for a in answers}), 1)

    def test_the_page(self):
        for path in ('/', '/s/anything'):
            answer = self.d.get(path)
            self.assertEqual(answer.status, 200)
            self.assertIn("default-src 'none'", answer.headers['content-security-policy'])
            self.assertEqual(answer.headers['x-content-type-options'], 'nosniff')
        answer = self.d.get('/static/main.js')
        self.assertEqual((answer.status, answer.headers['content-type']), (200, 'text/javascript; charset=utf-8'))
        self.assertEqual(len(answer.body), int(answer.headers['content-length']))
        again = self.d.get('/static/main.js', **{'If-None-Match': answer.headers['etag']})
        self.assertEqual((again.status, again.body), (304, b''))
        for path in ('/static/../index.html', '/static/..%2findex.html', '/static/', '/static/nothing.js'):
            self.refused(self.d.get(path), 404, 'not_found')

    def test_every_answer_closes(self):
        # One request a connection: a second one must not slip past the acceptor.
        head = f'GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{self.d.port}\r\n\r\n'.encode()
        answer = talk(self.d.port, head + head)
        self.assertEqual(answer.count(b'HTTP/1.1 '), 1)
        self.assertEqual(Answer(answer).headers['connection'], 'close')

    def test_hosts_and_origins(self):
        self.refused(self.d.get('/healthz', Host='evil.example'), 421, 'host_not_allowed')
        self.refused(self.d.get('/healthz', Origin='http://evil.example'), 403, 'forbidden_origin')
        self.assertEqual(self.d.get('/healthz', Host='localhost').status, 200)
        answer = self.d.get('/healthz', Origin=f'http://127.0.0.1:{self.d.port}')
        self.assertEqual(answer.status, 200)
        self.assertFalse([name for name in answer.headers if name.startswith('access-control')])

    def test_about(self):
        self.assertEqual(self.d.get('/healthz').json['status'], 'ok')
        self.assertEqual(self.d.get('/v1/version').json['name'], 'lightforced')
        self.assertEqual(self.d.get('/v1/status').json['state'], 'ready')
        self.assertEqual(self.d.get('/v1/models').json['models'][0]['backend'], 'test')
        self.assertTrue(self.d.get('/v1/capabilities').json['modes'])
        self.assertIn('/v1/sessions/{id}/stream', self.d.get('/openapi.json').json['paths'])
        self.assertIn('prompt.set', self.d.get('/asyncapi.json').json['components']['messages'])
        self.assertIn(b'\nlightforced_connections_total ', self.d.get('/metrics').body)
        head = self.d.request('HEAD', '/healthz')
        self.assertEqual((head.status, head.body), (200, b''))


if __name__ == '__main__':
    unittest.main(warnings='ignore')
