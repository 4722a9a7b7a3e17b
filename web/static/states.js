// SPDX-License-Identifier: Apache-2.0
// The states of the page and the words for them: one word in the pill, a message at the foot of the
// picture or in its place. Pure: from what the page knows to what it says. Numbers in words are marked
// with braces, "{1.8 GB}", and set in the measuring face by whoever prints them.

const seconds = (ms) => (ms >= 9950 ? `${Math.round(ms / 1000)} s` : `${(ms / 1000).toFixed(1)} s`);
const count = (n, word) => `{${n}} ${word}${n === 1 ? '' : 's'}`;
const ORDINALS = ['', 'first', 'second', 'third', 'fourth', 'fifth', 'sixth', 'seventh', 'eighth', 'ninth', 'tenth'];
export const ordinal = (n) => ORDINALS[n] ?? `${n}th`;

export function bytes_words(bytes)
{
	for (const [unit, size] of [['GB', 1e9], ['MB', 1e6], ['kB', 1e3]])
		if (bytes >= size)
			return `${(bytes / size).toFixed(bytes / size < 10 ? 1 : 0)} ${unit}`;
	return `${bytes} bytes`;
}

export function duration_words(ms)
{
	const s = Math.round(ms / 1000);
	if (s < 60)
		return `${s} s`;
	return s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
}

// Which state holds. Order matters: what cannot be got over comes first.
export function page_state(s)
{
	if (s.start_problem)
		return 'refused';
	if (s.unsupported)
		return 'unsupported';
	if (s.session_state === 'failed')
		return 'failed';
	if (s.session_state === 'ended' || s.closed_kind === 'ended')
		return 'ended';
	if (s.closed_kind === 'gone' || s.closed_kind === 'link' || s.closed_kind === 'refused')
		return s.closed_kind;
	if (s.loading && !s.socket_open)
		return 'loading';
	if (!s.socket_open)
		return s.was_open ? (s.draining ? 'draining' : 'reconnecting') : 'connecting';
	if (s.session_state === 'preparing')
		return 'loading';
	if (s.session_state === 'queued')
		return 'queued';
	if (s.session_state === 'paused')
		return 'paused';
	if (!s.has_picture)
		return 'connecting';
	return s.late ? 'late' : 'live';
}

const loading_words = (s) => {
	const { stage, loaded_bytes, total_bytes, eta_s } = s.loading ?? {};
	const left = eta_s ? `, about {${Math.ceil(eta_s)} s} left` : '';
	const read = total_bytes ? `{${bytes_words(loaded_bytes ?? 0)}} of {${bytes_words(total_bytes)}} read${left}.` : '';
	const step = /ready|first/.test(stage) ? 2 : /warm/.test(stage) ? 1 : 0;
	return {
		where: 'full', title: 'Loading the model', lines: [read, 'This page starts by itself.'].filter(Boolean),
		progress: total_bytes ? (loaded_bytes ?? 0) / total_bytes : null,
		steps: { names: ['weights', 'warm-up chunk', 'first picture'], at: step },
	};
};

const WORDS = {
	connecting: () => ({ where: 'foot', after_ms: 400, title: 'Connecting', lines: [] }),
	loading: loading_words,
	queued: (s) => ({
		where: 'full', title: `You are ${ordinal(s.queue_position || 1)} in line`,
		lines: ['All places are busy. This page starts by itself when one opens.',
			s.seed === undefined ? 'Your prompt is kept.' : `Your prompt and seed {${s.seed}} are kept.`],
		places: s.queue_position || 1,
	}),
	late: (s) => {
		const chunk = s.making_chunk === null ? 'It' : `Chunk {${s.making_chunk}}`;
		const usual = s.usual_ms ? `, {${seconds(s.usual_ms)}} is usual` : '';
		return {
			where: 'foot', title: 'The next chunk is late',
			lines: [`${chunk} has taken {${seconds(s.late_ms)}} so far${usual}. The connection is fine.`],
		};
	},
	reconnecting: (s) => ({
		where: 'foot', pale: true, title: 'Connection lost',
		lines: [`Trying again${s.retry_in_s > 0 ? ` in {${s.retry_in_s} s}` : ''}, ${ordinal(s.tries)} try. `
			+ 'The stream goes on; you come back to the newest picture.'],
		actions: [{ name: 'retry', text: 'Try now', primary: true }],
	}),
	draining: () => ({
		where: 'foot', pale: true, title: 'The server is restarting',
		lines: ['Your session is saved and comes back by itself.'],
	}),
	paused: (s) => (s.reason === 'unwatched'
		? {
			where: 'foot', title: 'Paused while nobody watched',
			lines: [`Kept at chunk {${s.chunk}}. It goes on now that you are here.`],
		}
		: {
			where: 'foot', title: `Paused at chunk ${s.chunk}.`, lines: ['Words sent now land when it goes on.'],
			actions: [{ name: 'resume', text: 'Go on', primary: true }],
		}),
	ended: (s) => ({
		where: 'full', dark: true, title: 'This stream has ended',
		lines: [[count(s.chunk + 1, 'chunk'), s.media_ms ? `{${duration_words(s.media_ms)}}` : '', count(s.prompt_count, 'prompt'), `seed {${s.seed}}`]
			.filter(Boolean).join(', ') + '. Run it again and you get the same film.'],
		actions: [{ name: 'again', text: 'Run it again', primary: true }, { name: 'fresh', text: 'Start another' }],
	}),
	failed: (s) => {
		const memory = s.problem?.code === 'out_of_device_memory';
		return {
			where: 'full', dark: true, alarm: true,
			title: memory ? 'Stopped: not enough GPU memory' : 'Stopped by an error in the server',
			lines: [s.problem?.detail || s.reason || 'The server gave no detail.', 'Other streams were not touched.'],
			actions: [{ name: 'again', text: 'Start again with it', primary: true }, { name: 'copy', text: 'Copy details' }],
		};
	},
	gone: () => ({
		where: 'full', title: 'There is no such stream (any more)',
		lines: ['A stream is kept for a while after the last viewer left, then its place is given away.'],
		actions: [{ name: 'fresh', text: 'Start a stream', primary: true }],
	}),
	link: () => ({
		where: 'full', title: 'This link no longer works', lines: ['Ask for a new one.'],
		actions: [{ name: 'fresh', text: 'Open the first page', primary: true }],
	}),
	refused: (s) => ({
		where: 'full', title: 'The server said no',
		lines: [s.start_problem || s.closed_reason || 'It did not say why.'],
		actions: [{ name: 'reload', text: 'Try again', primary: true }],
	}),
	unsupported: () => ({
		where: 'full', title: 'This browser cannot show the live picture',
		lines: ['It lacks a VP9 decoder. Current Chrome, Edge, Firefox and Safari have one.'],
	}),
	live: () => null,
};

// Messages that pass by: they lie at the foot for a while and never replace a state's own words.
export const PASSING = {
	behind: (n) => ({ where: 'foot', title: 'Your connection is slow', lines: [`${count(n, 'frame')} skipped.`], for_ms: 3000 }),
	resumed: (missed_s) => ({ where: 'foot', title: missed_s ? `Back, ${missed_s} s missed.` : 'Back.', lines: [], for_ms: 2000 }),
	notice: (text) => ({ where: 'foot', title: text, lines: [], for_ms: 6000 }),
};

export const state_words = (name, s) => WORDS[name](s);

// One word for the pill: [text, look], where look is on, off or bad.
export function pill_words(name, s)
{
	const looks = {
		live: ['live', 'on'], late: ['late', 'off'], paused: ['paused', 'off'], connecting: ['connecting', 'off'],
		reconnecting: ['reconnecting', 'off'], draining: ['restarting', 'off'], loading: ['loading', 'off'],
		queued: [`waiting, ${ordinal(s.queue_position || 1)}`, 'off'], ended: ['ended', 'off'], failed: ['failed', 'bad'],
		gone: ['gone', 'off'], link: ['link used', 'off'], refused: ['refused', 'off'], unsupported: ['no decoder', 'off'],
	};
	return looks[name];
}

// What the live region says when the state becomes `name`; '' for states nobody needs read out.
export function announcement(name)
{
	const said = {
		live: 'Live.', paused: 'Paused.', late: 'The next chunk is late.', reconnecting: 'Connection lost. Trying again.',
		draining: 'The server is restarting.', loading: 'Loading the model.', queued: 'Waiting in line.', ended: 'This stream has ended.',
		gone: 'There is no such stream.', unsupported: 'This browser cannot show the live picture.',
	};
	return said[name] ?? '';
}
