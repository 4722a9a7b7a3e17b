// SPDX-License-Identifier: Apache-2.0
// Tests of the page's pure modules, run inside a real browser: test_modules.py serves this file beside
// the modules, imports it and prints what run() answers. One function a fact; a throw is a failure.

import { PlayoutClock } from '/static/clock.js';
import { with_turn } from '/static/chips.js';
import { Prompts, delay_parts } from '/static/prompts.js';
import { Reel } from '/static/reel.js';
import { page_state, pill_words, state_words } from '/static/states.js';
import { ClockOffset, Rate, quantile } from '/static/stats.js';
import { Store } from '/static/store.js';
import { webm_cluster, webm_init } from '/static/webm.js';
import { FrameGate, parse_frame } from '/static/wire.js';
import { changed_first, diff_words, hue, letter, one_line, slot_at } from '/static/words.js';

function equal(is, should, what = 'value')
{
	const [a, b] = [JSON.stringify(is), JSON.stringify(should)];
	if (a !== b)
		throw new Error(`${what}: ${a}, expected ${b}`);
}

function near(is, should, within, what)
{
	if (!(Math.abs(is - should) <= within))
		throw new Error(`${what}: ${is}, expected ${should} within ${within}`);
}

function throws(call, what)
{
	try {
		call();
	} catch {
		return;
	}
	throw new Error(`${what}: no error`);
}

// A binary message as the server writes it, fields by name.
function message({ kind = 1, flags = 0, header = 48, epoch = 1, seq = 0, pts_us = 0, chunk = 0, frame = 0, frames = 12, revision = 1, said = 3, sent = 0, payload = [7, 8, 9] })
{
	const bytes = new Uint8Array(header + payload.length);
	const view = new DataView(bytes.buffer);
	view.setUint8(0, kind);
	view.setUint8(1, flags);
	view.setUint16(2, header);
	view.setUint32(4, epoch);
	view.setBigUint64(8, BigInt(seq));
	view.setBigUint64(16, BigInt(pts_us));
	view.setUint32(24, chunk);
	view.setUint16(28, frame);
	view.setUint16(30, frames);
	view.setUint32(32, revision);
	view.setUint32(36, said);
	view.setBigUint64(40, BigInt(sent));
	bytes.set(payload, header);
	return bytes.buffer;
}

// Reads EBML: [{id, size, at, data}] of one level; size -1 is "unknown".
function elements(bytes)
{
	const out = [];
	for (let at = 0; at < bytes.length;) {
		const id_length = Math.clz32(bytes[at]) - 23;
		let id = 0;
		for (let i = 0; i < id_length; i++)
			id = id * 256 + bytes[at + i];
		at += id_length;
		const size_length = Math.clz32(bytes[at]) - 23;
		let size = bytes[at] & (1 << (8 - size_length)) - 1;
		let unknown = size === (1 << (8 - size_length)) - 1;
		for (let i = 1; i < size_length; i++) {
			size = size * 256 + bytes[at + i];
			unknown &&= bytes[at + i] === 255;
		}
		at += size_length;
		const end = unknown ? bytes.length : at + size;
		if (end > bytes.length)
			throw new Error(`element ${id.toString(16)} ends at ${end} of ${bytes.length}`);
		out.push({ id, unknown, data: bytes.slice(at, end) });
		at = end;
	}
	return out;
}

const find = (list, id) => list.find((entry) => entry.id === id);
const CONFIG = { width: 256, height: 144, fps_num: 16, fps_den: 1, color: { primaries: 'bt709', transfer: 'bt709', matrix: 'bt709', fullRange: false } };
const FRAME_MS = 62.5;
const CHUNK_MS = 750;

// Plays chunks that arrive at `arrivals` (ms) through a clock; answers when each first frame was due.
function play(clock, arrivals, tick_to = null)
{
	return arrivals.map((now_ms, n) => {
		for (let t = n ? arrivals[n - 1] : now_ms; tick_to === null && t < now_ms; t += 16)
			clock.tick(t);
		for (let i = 0; i < 12; i++)
			clock.arrive({ pts_ms: n * CHUNK_MS + i * FRAME_MS, first: i === 0, chunk_ms: CHUNK_MS, frame_ms: FRAME_MS, now_ms });
		return clock.due(n * CHUNK_MS);
	});
}

const tests = {
	'header: every field, big-endian'() {
		const frame = parse_frame(message({ flags: 1 | 4 | 16, epoch: 3, seq: 2 ** 40 + 5, pts_us: 2 ** 41 + 1, chunk: 70000, frame: 11, revision: 9, sent: 2 ** 45 + 3 }));
		equal([frame.key, frame.discontinuity, frame.first, frame.last, frame.replayed], [true, false, true, false, true], 'flags');
		equal([frame.epoch, frame.seq, frame.pts_us, frame.chunk, frame.frame, frame.frames, frame.revision, frame.sent_ts_us],
			[3, 2 ** 40 + 5, 2 ** 41 + 1, 70000, 11, 12, 9, 2 ** 45 + 3], 'numbers');
		equal([...frame.data], [7, 8, 9], 'payload');
	},
	'header: a longer one is skipped by its own length'() {
		equal([...parse_frame(message({ header: 56 })).data], [7, 8, 9]);
	},
	'header: wrong lengths are errors, other kinds are ignored'() {
		throws(() => parse_frame(new ArrayBuffer(20)), 'short');
		throws(() => parse_frame(message({ said: 4 })), 'payload bytes');
		equal(parse_frame(message({ kind: 2 })), null);
	},
	'gate: passes from a key frame on, asks once at a gap, waits for the next key'() {
		const gate = new FrameGate();
		const offer = (seq, key = false) => gate.offer({ seq, key });
		equal([offer(4), offer(5), offer(6, true), offer(7), offer(7), offer(9), offer(10), offer(11, true), offer(12)],
			['gap', 'drop', 'pass', 'pass', 'drop', 'gap', 'drop', 'pass', 'pass']);
		equal(gate.dropped, 4, 'dropped');
	},
	'webm: head, track and colour of the init segment'() {
		const top = elements(webm_init(CONFIG));
		equal(top.map((entry) => entry.id), [0x1a45dfa3, 0x18538067], 'top');
		equal([top[0].unknown, top[1].unknown], [false, true], 'endless segment');
		const segment = elements(top[1].data);
		const track = elements(find(elements(find(segment, 0x1654ae6b).data), 0xae).data);
		equal(new TextDecoder().decode(find(track, 0x86).data), 'V_VP9');
		const video = elements(find(track, 0xe0).data);
		equal([...find(video, 0xb0).data], [1, 0], 'width 256');
		equal([...find(video, 0xba).data], [144], 'height 144');
		equal([...find(track, 0x23e383).data].reduce((n, byte) => n * 256 + byte, 0), 62500000, 'frame duration, ns');
		equal(elements(find(video, 0x55b0).data).map((entry) => entry.data[0]), [1, 1, 1, 1], 'colour');
	},
	'webm: a key and a delta cluster'() {
		const [key] = elements(webm_cluster({ time_ms: 300, duration_ms: 63, key: true, data: new Uint8Array([1, 2]) }));
		equal(key.id, 0x1f43b675);
		const inside = elements(key.data);
		equal([...find(inside, 0xe7).data], [1, 44], 'time');
		const group = elements(find(inside, 0xa0).data);
		equal([...find(group, 0xa1).data], [0x81, 0, 0, 0, 1, 2], 'block');
		equal([...find(group, 0x9b).data], [63], 'duration');
		equal(find(group, 0xfb), undefined, 'a key refers to nothing');
		const delta = elements(find(elements(elements(webm_cluster({ time_ms: 0, duration_ms: 62, key: false, data: new Uint8Array(300) }))[0].data), 0xa0).data);
		equal([...find(delta, 0xfb).data], [255], 'a delta refers to the one before');
		equal(find(delta, 0xa1).data.length, 304, 'size over one byte');
	},
	'words: what changed, joined over spaces'() {
		equal(diff_words('a pink kite over the sea', 'a red kite over the wide sea'), [
			{ text: 'a ', changed: false }, { text: 'red', changed: true }, { text: ' kite over the ', changed: false },
			{ text: 'wide', changed: true }, { text: ' sea', changed: false },
		]);
		equal(diff_words('a kite', 'a kite').every((run) => !run.changed), true, 'same');
		equal(diff_words('a kite', 'at dawn, in fog').filter((run) => run.changed).map((run) => run.text), ['at dawn, in fog'], 'all new is one run');
		equal(diff_words('Ein Haus', 'ein haus')[0].changed, false, 'case does not count');
		equal(diff_words('x', '').length, 0, 'empty');
	},
	'words: the text is never altered'() {
		for (const text of ['  two  spaces ', 'naïve café, déjà-vu!', '雨の中の灯台', 'a 🚀 over\u00a0there'])
			equal(diff_words('a lighthouse', text).map((run) => run.text).join(''), text);
	},
	'words: changed words first, letters, hues'() {
		equal(changed_first('a sailboat at sunset', 'a sailboat at sunset, in the rain'), '… in the rain');
		equal([1, 26, 27, 52, 53, 703].map(letter), ['A', 'Z', 'AA', 'AZ', 'BA', 'AAA']);
		equal([1, 6, 7].map(hue), [1, 6, 1]);
		equal(one_line('a\r\nb\tc\u2028d'), 'a b c d');
	},
	'words: the longest slot word under the caret'() {
		const slots = [{ name: 'place', words: ['mountains', 'snowy mountains'] }, { name: 'thing', words: ['kite'] }];
		const text = 'a kite over snowy mountains';
		equal(slot_at(text, 20, slots).word, 'snowy mountains');
		equal([slot_at(text, 3, slots).start, slot_at(text, 3, slots).end], [2, 6]);
		equal(slot_at(text, 9, slots), null);
		equal(slot_at('kites', 2, slots), null, 'only whole words');
	},
	'chips: a turn replaces the turn before'() {
		equal(with_turn('a kite, at night.', 'in the rain', ['at night', 'in the rain']), 'a kite, in the rain');
		equal(with_turn('a kite', 'at night', ['at night']), 'a kite, at night');
		const slots = [{ name: 'time', words: ['at dawn', 'at night'] }];
		equal(with_turn('a kite at dawn in fog', 'at night', ['at night'], slots), 'a kite at night in fog', 'in its slot');
	},
	'clock: no buffer on loopback, first frame at once'() {
		equal(play(new PlayoutClock({ loopback: true }), [1000]), [1000]);
		equal(play(new PlayoutClock(), [1000]), [1030], 'least buffer elsewhere');
	},
	'clock: a late chunk is held, then the pace goes on from there'() {
		const clock = new PlayoutClock({ loopback: true });
		equal(play(clock, [0, 750, 1600, 2250]), [0, 750, 1600, 2350]);
		equal(clock.underruns, 1);
	},
	'clock: buffer grows with jitter, up to its limit'() {
		const clock = new PlayoutClock();
		play(clock, [0, 850, 1500, 2350, 3000, 3850, 4500]);
		equal(clock.buffer_ms, 200);
		play(new PlayoutClock(), [0]);
		const wild = new PlayoutClock();
		play(wild, [0, 1400, 1500, 2900, 3000, 4400]);
		equal(wild.buffer_ms, 250);
	},
	'clock: slower than real time plays slower, not in jerks'() {
		const clock = new PlayoutClock({ loopback: true });
		const due = play(clock, Array.from({ length: 20 }, (_, n) => n * 1000));
		near(clock.stretch, 4 / 3, .01, 'stretch');
		near(due[19] - due[18], 1000, 1, 'a chunk takes a second');
		near(clock.due(19 * CHUNK_MS + FRAME_MS) - due[19], FRAME_MS * 4 / 3, 1, 'and a frame its share');
	},
	'clock: unneeded buffer is given back slowly'() {
		const clock = new PlayoutClock({ loopback: true });
		play(clock, [0, 1200, ...Array.from({ length: 80 }, (_, n) => 1500 + n * 750)]);
		const slack_ms = clock.due(81 * CHUNK_MS) - (1500 + 79 * 750);
		if (!(slack_ms < 250 && slack_ms > 0))
			throw new Error(`slack ${slack_ms}, expected less than the 450 ms of the start`);
	},
	'clock: a server that was slow and hurries is caught up with'() {
		const clock = new PlayoutClock({ loopback: true });
		const slow = Array.from({ length: 8 }, (_, n) => n * 1000);
		const burst = [7050, 7100];
		const even = Array.from({ length: 12 }, (_, n) => 7850 + n * 750);
		const arrivals = [...slow, ...burst, ...even];
		const due = play(clock, arrivals);
		const waits = due.map((at, n) => at - arrivals[n]);
		if (!(waits[9] > 1200))
			throw new Error(`after the burst a chunk should wait: ${waits[9]}`);
		// At 1.05x for most of nine seconds; 919 ms against 1410 ms when written.
		if (!(waits[21] < waits[9] - 250))
			throw new Error(`nine seconds later it should wait less than ${waits[9]}: ${waits[21]}`);
		equal(clock.stretch, 1, 'no slow motion while media waits');
	},
	'clock: four chunks behind means skip'() {
		const clock = new PlayoutClock({ loopback: true });
		play(clock, [0, 1, 2], 1);
		equal(clock.tick(20), false);
		play(clock, [0, 1, 2, 3, 4, 5], 1);
		equal(clock.tick(40), true);
		clock.jump(5 * CHUNK_MS, 40);
		equal(clock.due(5 * CHUNK_MS), 40);
	},
	'clock: a long silence starts a new time line'() {
		const clock = new PlayoutClock({ loopback: true });
		play(clock, [0, 750]);
		clock.arrive({ pts_ms: 1500, first: true, chunk_ms: CHUNK_MS, frame_ms: FRAME_MS, now_ms: 60000 });
		equal([clock.due(1500), clock.underruns, clock.stretch], [60000, 0, 1]);
	},
	'stats: quantiles, rates, offset'() {
		equal([quantile([3, 1, 2], .5), quantile([1, 2], .5), quantile([], .5)], [2, 1.5, NaN]);
		const rate = new Rate(4000);
		for (let t = 0; t <= 3750; t += 750)
			rate.add(t, 12);
		equal(rate.per_second(3800), 16);
		equal(rate.per_second(60000), NaN, 'long ago');
		const offset = new ClockOffset();
		[0, 100, 0].forEach((extra) => offset.add(1000, 1010 + extra, 5005));
		near(offset.to_page_ms(6000 * 1000), 2000, .01, 'page time');
		near(offset.doubt_ms, 5, .01, 'doubt');
	},
	'prompts: from asked to seen, and the parts sum to the whole'() {
		const prompts = new Prompts();
		prompts.restore([{ id: 'p1', text: 'a', revision: 1, state: 'applied', transition: { mode: 'switch' }, applies_at_chunk: 0 }]);
		prompts.seen({ revision: 1 }, 10, 0);
		const mine = prompts.ask({ event_id: 'e1', text: 'b', mode: 'cut', now_ms: 1000, place: 3.5 });
		equal(prompts.next_revision, 3, 'the one asked has the next letter');
		prompts.follow({ type: 'prompt.accepted', event_id: 'e1', id: 'p2', revision: 2, applies_at_chunk: 5, ts_us: 1004e3 }, 1006);
		equal([mine.state, mine.chunk, mine.revision], ['accepted', 5, 2]);
		prompts.chunk_began({ prompt_revision: 2, chunk: 5, ts_us: 1300e3 }, 1301);
		prompts.follow({ type: 'prompt.applied', event_id: 'e1', chunk: 5, revision: 2 }, 1800);
		prompts.arrived({ revision: 2, arrived_ms: 1812, sent_ts_us: 1810e3, chunk: 5 });
		equal(mine.state, 'arrived');
		equal(prompts.seen({ revision: 2 }, 1830, 4.1), mine, 'seen once');
		equal(prompts.seen({ revision: 2 }, 1890, 4.2), undefined, 'not twice');
		prompts.chunk_ended({ prompt_revision: 2, chunk: 5, timings: { condition_us: 1000, dit_us: 400000, vae_us: 99000 } });
		equal([mine.state, mine.delay_ms], ['seen', 830]);
		const parts = delay_parts(mine, (us) => us / 1000);
		equal(parts.map(({ ms }) => Math.round(ms)), [4, 296, 500, 10, 2, 18]);
		near(parts.reduce((sum, { ms }) => sum + ms, 0), 830, 1e-6, 'sum');
	},
	'prompts: rejected, superseded, overtaken, others'() {
		const prompts = new Prompts();
		const bad = prompts.ask({ event_id: 'e1', text: 'x', mode: 'switch', now_ms: 0, place: 0 });
		prompts.follow({ type: 'prompt.rejected', event_id: 'e1', code: 'prompt_too_long', message: 'Too long.' }, 5);
		equal(bad.state, 'rejected');
		const first = prompts.ask({ event_id: 'e2', text: 'y', mode: 'switch', now_ms: 0, place: 0 });
		prompts.follow({ type: 'prompt.accepted', event_id: 'e2', id: 'p2', revision: 2, applies_at_chunk: 4, ts_us: 1 }, 1);
		prompts.follow({ type: 'prompt.accepted', event_id: 'other', id: 'p3', revision: 3, applies_at_chunk: 4, ts_us: 1, text: 'z' }, 2);
		equal(prompts.list[2].mine, false, 'somebody else asked');
		prompts.follow({ type: 'prompt.superseded', event_id: 'e2', id: 'p2' }, 3);
		equal(first.state, 'superseded');
		equal(prompts.seen({ revision: 3 }, 9, 1).text, 'z');
		equal(prompts.list.filter(({ state }) => state === 'seen').length, 1);
	},
	'reel: places go on over a reset, turns and cuts are found'() {
		const reel = new Reel();
		const take = (chunk, frame, revision, epoch) => reel.take({ chunk, frame, frames: 4, revision, epoch, key: frame === 0 });
		equal([take(7, 0, 1, 1), take(7, 2, 2, 1), take(8, 0, 2, 1)], [7, 7, 8]);
		equal(take(0, 0, 2, 2), 9, 'after a reset');
		equal(take(1, 0, 3, 3), 10);
		equal(reel.turns, [{ revision: 1, at: 7, cut: false }, { revision: 2, at: 7.5, cut: false }, { revision: 2, at: 9, cut: true }, { revision: 3, at: 10, cut: true }]);
		equal(reel.place_of_chunk(3), 12, 'a chunk to come');
		equal(reel.spans(7, 8.5).map(({ at, end }) => [at, end]), [[7, 7.5], [7.5, 9]]);
	},
	'states: every one has words, and the worst wins'() {
		const open = { socket_open: true, was_open: true, has_picture: true, session_state: 'running' };
		const cases = [
			[{}, 'connecting'], [{ loading: { stage: 'weights' } }, 'loading'], [{ socket_open: true, session_state: 'queued' }, 'queued'],
			[open, 'live'], [{ ...open, late: true, late_ms: 2900, making_chunk: 209 }, 'late'], [{ ...open, session_state: 'paused', chunk: 4 }, 'paused'],
			[{ ...open, socket_open: false, tries: 3, retry_in_s: 2 }, 'reconnecting'], [{ ...open, socket_open: false, draining: true }, 'draining'],
			[{ ...open, session_state: 'ended', chunk: 3, seed: 42, prompt_count: 1 }, 'ended'], [{ ...open, session_state: 'failed' }, 'failed'],
			[{ closed_kind: 'gone' }, 'gone'], [{ closed_kind: 'link' }, 'link'], [{ start_problem: 'No.' }, 'refused'], [{ unsupported: true }, 'unsupported'],
		];
		for (const [s, name] of cases) {
			equal(page_state(s), name);
			equal(typeof pill_words(name, s)[0], 'string', name);
			const words = state_words(name, s);
			if (name !== 'live')
				equal([typeof words.title, /undefined|NaN/.test(JSON.stringify(words))], ['string', false], `words of ${name}: ${JSON.stringify(words)}`);
		}
		equal(state_words('reconnecting', { tries: 3, retry_in_s: 2 }).lines[0].startsWith('Trying again in {2 s}, third try.'), true);
	},
	async 'store: changes are told once, together'() {
		const store = new Store({ a: 1, b: 2 });
		let calls = 0;
		store.on(['a', 'b'], () => { calls++; });
		store.set({ a: 2, b: 3 });
		store.set({ a: 2 });
		await Promise.resolve();
		equal(calls, 2, 'once at the start, once for both');
	},
};

export async function run()
{
	const results = [];
	for (const [name, test] of Object.entries(tests)) {
		try {
			await test();
			results.push({ name, error: '' });
		} catch (error) {
			results.push({ name, error: String(error.message ?? error) });
		}
	}
	return results;
}
