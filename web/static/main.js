// SPDX-License-Identifier: Apache-2.0
// The page: finds or makes a session, puts the parts together, and carries actions between them.
//
//   socket -> session -> { store -> views, player -> picture, reel and prompts -> film and receipts }
//
// Every module imported here has one job, said in its first lines.

import { Problem, create_session, get_capabilities, get_readiness, get_session, list_sessions } from './api.js';
import { Announcer } from './announce.js';
import { copy_text, start_bar, start_rail } from './bar.js';
import { start_chips } from './chips.js';
import { by_id, set_text } from './dom.js';
import { Film } from './film.js';
import { start_keys } from './keys.js';
import { Line } from './line.js';
import { start_measure } from './measure.js';
import { Modes } from './modes.js';
import { start_picture } from './picture.js';
import { expected_delay_ms, start_receipts } from './receipts.js';
import { Session } from './session.js';
import { start_stage } from './stage.js';
import { Store } from './store.js';
import { letter } from './words.js';

const READY_POLL_MS = 400;
const PLAIN_START = 'a lighthouse in heavy rain';

const query = new URLSearchParams(location.search);
const store = new Store({ state: 'connecting', chunk: 0, name: '', prompt_count: 0, making_chunk: null });
const announcer = new Announcer(by_id('status'), by_id('alert'));
let session = null;
const the_session = () => session;

// Words sent before there is a session: they begin it, or are its next prompt when it was there already.
let first_words = '';

function take_first_words()
{
	const words = first_words;
	first_words = '';
	return words;
}

function send_words(text, mode)
{
	if (session.is_open) {
		session.set_prompt(text, mode);
		return;
	}
	first_words = text;
	announcer.say('first', 'These words are sent when the stream opens.');
}

// ---- finding a session

const session_id_of_address = () => decodeURIComponent(location.pathname.match(/^\/s\/([^/]+)\/?$/)?.[1] ?? '');
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function wait_until_ready()
{
	for (;;) {
		const readiness = await get_readiness().catch((problem) => ({ ready: problem.status !== 0 }));
		store.set({ loading: readiness.ready ? null : readiness });
		if (readiness.ready)
			return;
		await sleep(READY_POLL_MS);
	}
}

// Tries again while the model loads, while all places are taken, and while the server is away.
async function when_ready(call)
{
	for (;;) {
		try {
			return await call();
		} catch (problem) {
			const later = problem.status === 0 || problem.status === 503 || problem.status === 429;
			if (!(problem instanceof Problem) || !later)
				throw problem;
			if (problem.code === 'session_limit' || problem.code === 'queue_full')
				store.set({ session_state: 'queued', socket_open: true });
			await wait_until_ready();
			await sleep(Math.min(5, problem.retry_after_s || .4) * 1000);
		}
	}
}

async function find_session()
{
	const wanted = session_id_of_address();
	if (wanted)
		return when_ready(() => get_session(wanted));
	await wait_until_ready();
	const live = (await when_ready(list_sessions)).find(({ state }) => !['ended', 'failed'].includes(state));
	if (live && !query.has('new'))
		return live;
	const capabilities = await when_ready(get_capabilities);
	const state = await when_ready(() => create_session({ prompt: first_words || capabilities.suggestions?.sentences?.[0] || PLAIN_START }));
	take_first_words();
	return state;
}

async function start()
{
	try {
		const state = await find_session();
		store.set({ session_state: undefined, socket_open: false });
		history.replaceState(null, '', `/s/${encodeURIComponent(state.id)}${keep_query()}`);
		store.set({ session_id: state.id });
		session.open(state);
	} catch (problem) {
		if (problem.status === 404 || problem.status === 410)
			store.set({ closed_kind: 'gone' });
		else
			store.set({ start_problem: problem.message });
	}
}

function keep_query()
{
	query.delete('new');
	return query.size ? `?${query}` : '';
}

// ---- what people do

async function open_another(body)
{
	try {
		const state = await create_session(body);
		location.assign(`/s/${encodeURIComponent(state.id)}${keep_query()}`);
	} catch (problem) {
		store.set({ start_problem: problem.message });
	}
}

function copy_details()
{
	const { session_id, seed, chunk, problem, reason, config } = store.values;
	const prompts = session.prompts.list.map(({ text, mode, chunk: at }) => ({ text, mode, chunk: at }));
	const details = { session: session_id, seed, chunk, problem, reason, config, prompts, browser: navigator.userAgent };
	copy_text(JSON.stringify(details, null, 1));
}

const ACTIONS = {
	retry: () => session.socket.retry_now(),
	resume: () => session.control('resume'),
	pause: () => session.control(store.get('session_state') === 'paused' ? 'resume' : 'pause'),
	step: () => session.control('step'),
	scene: () => {
		const words = session.prompts.shown?.text ?? line.text.trim();
		if (words && modes.all.some((mode) => mode.name === 'cut'))
			session.set_prompt(words, 'cut');
	},
	again: () => open_another({
		prompt: session.prompts.list[0]?.text || line.text.trim() || PLAIN_START,
		...(store.get('seed') === undefined ? {} : { seed: store.get('seed') }),
	}),
	fresh: () => location.assign('/?new'),
	reload: () => location.reload(),
	copy: copy_details,
};
const NEED_A_SESSION = new Set(['retry', 'resume', 'pause', 'step', 'scene']);
const act = (name) => (session.is_open || !NEED_A_SESSION.has(name)) && ACTIONS[name]();

// ---- the parts

const modes = new Modes({ store });
const line = new Line({
	store, session: the_session, modes,
	hooks: {
		send: send_words,
		moved: () => chips?.draw(),
		said: (words) => announcer.alert(words),
	},
});
const chips = start_chips({ store, line, modes });
const picture = start_picture({ store, session: the_session, act, copy: copy_text });
const rail = start_rail();
const film = new Film({ store, session: the_session });

session = new Session({
	store,
	surfaces: { canvas: by_id('canvas'), video: by_id('video'), ambient: by_id('ambient') },
	forced: query.get('player'),
	on: {
		shown: ({ frame }) => {
			picture.shown(frame);
			film.shown(frame);
		},
		thumb: (thumb) => film.thumb(thumb),
		arrived: (frame) => film.arrived(frame),
		seen: (prompt, frame) => {
			const now = prompt ?? session.prompts.by_revision(frame.revision);
			picture.turned(now, frame);
			if (now)
				line.adopt(now.text);
			const after = prompt?.delay_ms === undefined ? '' : ` after ${(prompt.delay_ms / 1000).toFixed(1)} seconds`;
			if (prompt)
				announcer.say('seen', `Seen${after}: ${prompt.text}`);
		},
		moved: (prompt) => {
			if (prompt.mine && prompt.state === 'accepted')
				announcer.say('accepted', `Accepted for chunk ${prompt.chunk}.`);
			if (prompt.mine && prompt.state === 'rejected')
				line.problem(prompt.problem_words);
		},
		said: (words) => line.problem(words),
	},
});

start_receipts({
	store, session: the_session, undo: () => session.cancel_pending(),
	use: (prompt, send) => {
		line.fill(prompt.text);
		if (send)
			line.send();
		chips.draw();
	},
});
start_bar({ store, announcer });
start_measure({ store, session: the_session });
start_stage({ store, announcer, act });
start_keys({
	line: () => line.focus(),
	mode: () => modes.toggle(),
	pause: () => act('pause'),
	step: () => act('step'),
	scene: () => act('scene'),
	dice: () => by_id('dice').click(),
	full: () => picture.toggle_full(),
	pixel: () => by_id('pixel').click(),
	prompts: () => rail.toggle('prompts'),
	measure: () => rail.toggle('measure'),
	escape: () => {
		if (modes.close())
			return;
		if (document.activeElement === by_id('words'))
			by_id('words').blur();
		else if (!picture.close_slate())
			session.cancel_pending();
	},
});

store.on(['prompts', 'has_picture', 'session_state'], () => {
	store.set({ prompt_count: session.prompts.list.filter((prompt) => ['seen', 'past'].includes(prompt.state)).length });
	const words = session.prompts.shown?.text;
	document.title = `${store.get('session_state') === 'paused' ? '‖ ' : ''}${words ? `${words} · ` : ''}lightforced`;
});
store.on(['role'], ({ role }) => {
	const words = role && take_first_words();
	if (words)
		session.set_prompt(words, modes.chosen?.name ?? 'switch');
});
store.on(['making_chunk', 'prompts'], ({ making_chunk }) => {
	const delay_ms = expected_delay_ms(session);
	const next = making_chunk === null ? '' : `${making_chunk + 1}`;
	set_text(by_id('when-detail'), [next, delay_ms > 0 ? `seen in ${(delay_ms / 1000).toFixed(1)} s` : ''].filter(Boolean).join(', '));
});

// A phone's keyboard covers the page: the grid is as high as what stays visible.
visualViewport?.addEventListener('resize', () => {
	document.documentElement.style.setProperty('--visible', `${visualViewport.height}px`);
});

// For browser tests and for the curious: what is on this screen.
window.lightforced = {
	stats: () => ({
		state: document.documentElement.dataset.state, session: store.get('session_id'), path: session.player.path,
		shown: session.shown_frames, seq: session.report?.frame.seq ?? -1, epoch: session.report?.frame.epoch ?? -1,
		chunk: session.report?.frame.chunk ?? -1, revision: session.prompts.shown_revision, letter: letter(session.prompts.shown_revision),
		late_frames: session.report?.late_frames ?? 0, dropped: session.player.dropped_frames + session.server_dropped,
		underruns: session.report?.underruns ?? 0, lead_ms: session.report?.lead_ms ?? 0,
		prompts: session.prompts.list.map(({ revision, text, mode, state, chunk, delay_ms, mine }) => ({ revision, text, mode, state, chunk, delay_ms, mine })),
	}),
	session: the_session, store,
};

start();
