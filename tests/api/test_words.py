# SPDX-License-Identifier: Apache-2.0
"""Words from outside the demo model's world: each brings moving pictures or an answer that says what is wrong with it."""

import os
import unittest

from client import Daemon, Frame

WORDS = [
    'ein roter Drachen fliegt über das Meer', '一只红色的风筝飞过海', 'الطائر الأحمر يطير', 'красный воздушный змей',
    '\U0001f680\U0001f388\U0001f984', 'e\u0301\u0302\u0303\u200d\u202e\ufeff', 'xqzt blorf %%% \\ {"a": 1} <script>', '0', '?',
    'a\x01kite\x7f', 'A RED KITE!!!', '<pad></s><unk>',
]


class Words(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        model = os.path.join(os.environ['LIGHTFORCED_ROOT'], 'models', 'demo')
        cls.d = Daemon('--model', model, backend='cpu')

    @classmethod
    def tearDownClass(cls):
        cls.d.__exit__(None, None, None)

    def test_any_words_bring_pictures(self):
        s = self.d.create(WORDS[0], pace='max')['id']
        stream = self.d.stream(s)
        stream.frames(1)
        for words in WORDS[1:]:
            answer = self.d.post(f'/v1/sessions/{s}/prompts', {'text': words})
            self.assertEqual(answer.status, 202, (words, answer.body))
            revision = answer.json['revision']
            frame = stream.until(lambda m, r=revision: isinstance(m, Frame) and m.revision == r)
            self.assertGreater(len(frame.payload), 0, words)
        self.assertIsNone(self.d.process.poll())

    def test_too_many_words_are_refused_with_counts(self):
        s = self.d.create(pace='max')['id']
        for words in ('a red kite ' * 2000, '\U0001f388' * 3000, 'kite ' * 63 + 'kite'):
            answer = self.d.post(f'/v1/sessions/{s}/prompts', {'text': words})
            self.assertEqual((answer.status, answer.json['code']), (422, 'prompt_too_long'), words[:20])
            self.assertRegex(answer.json['detail'], r'\d+')
        self.d.stream(s).frames(1)


if __name__ == '__main__':
    unittest.main()
