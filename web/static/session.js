// SPDX-License-Identifier: Apache-2.0
// One session as this page knows it: follows the socket, keeps the store, the prompts and the reel up
// to date, feeds the player, and carries out what people ask for. It draws nothing.

import { get_readiness, get_session, prompt_problem_words, send_prompt } from './api.js';
import { Player } from './player.js';
import { Prompts, is_open } from './prompts.js';
import { Reel } from './reel.js';
import { StreamSocket, page_now_ms } from './socket.js';
import { PASSING } from './states.js';
import { Rate, Recent, median } from './stats.js';

const WATCH_MS = 250;
const LATE_CHUNKS = 2;
const READY_POLL_MS = 500;

// What a chunk took to make, without the waiting for the media clock.
const work_ms = ({ timings: t }) => (t.condition_us + t.dit_us + t.vae_us + t.encode_us) / 1000;

export class Session
{
	constructor({ store, surfaces, forced, on })
	{
		this.store = store;
		this.on = on;           // {shown, thumb, seen, moved, said}
		this.prompts = new Prompts();
		this.reel = new Reel();
		this.chunks = new Recent(24);   // chunk.end messages
		this.rates = { shown: new Rate(4000), encoded: new Rate(4000) };
		this.shown_frames = 0;
		this.server_dropped = 0;
		this.event_number = 0;
		this.event_stem = Math.random().toString(36).slice(2, 8);
		this.player = new Player({
			...surfaces, forced,
			hooks: {
				shown: (report) => this.#shown(report),
				thumb: (thumb) => this.on.thumb(thumb),
				need_key: () => this.socket?.send({ type: 'keyframe.request' }),
				unsupported: () => this.store.set({ unsupported: true }),
			},
		});
	}

	open(state)
	{
		this.id = state.id;
		this.#apply(state);
		const path = state.links?.stream ?? `/v1/sessions/${encodeURIComponent(state.id)}/stream`;
		this.socket = new StreamSocket(path, {
			open: () => this.store.set({ socket_open: true, was_open: true, draining: false, tries: 0, loading: null }),
			message: (message) => this.#message(message),
			frame: (frame) => this.#frame(frame),
			down: (down) => this.#down(down),
			closed: (closed) => this.#closed(closed),
		});
		this.socket.connect();
		this.watch_timer = setInterval(() => this.#watch(), WATCH_MS);
		document.addEventListener('visibilitychange', () => this.#visibility());
		addEventListener('online', () => this.socket.retry_now());
	}

	// ---- from the server

	#message(message)
	{
		const handler = {
			hello: () => this.#hello(message),
			'video.config': () => { this.store.set({ config: message }); this.player.config(message); },
			'session.state': () => this.#apply(message),
			'session.viewers': () => this.store.set({ viewers: message.viewers }),
			'chunk.begin': () => this.#chunk_begin(message),
			'chunk.end': () => this.#chunk_end(message),
			'viewer.lag': () => this.#lag(message),
			notice: () => this.#notice(message),
			error: () => this.#error(message),
		}[message.type];
		if (handler)
			handler();
		else if (message.type.startsWith('prompt.'))
			this.#moved(this.prompts.follow(message, page_now_ms(), this.screen_at));
	}

	#hello(message)
	{
		this.store.set({ role: message.role, capabilities: message.capabilities ?? this.store.get('capabilities') });
		this.#apply(message.state);
		const back = this.shown_frames > 0;
		if (!message.resumed)
			this.player.reset();
		if (back) {
			const missed_s = message.resumed ? 0 : Math.round((page_now_ms() - this.last_shown_ms) / 1000);
			this.store.set({ passing: PASSING.resumed(missed_s) });
		}
		for (const prompt of this.prompts.list)
			if (prompt.state === 'asked')
				this.#moved(this.prompts.follow({
					type: 'prompt.rejected', event_id: prompt.event_id, code: 'no_answer',
					message: 'The connection was lost before the server answered. Send it again.',
				}));
		if (document.hidden)
			this.#visibility();
	}

	#apply(state)
	{
		const { store } = this;
		if (state.prompts)
			this.prompts.restore(state.prompts);
		// Nothing is late before it had the time to be made.
		if (state.state === 'running' && store.get('session_state') !== 'running')
			this.runs_dry_ms = page_now_ms();
		const known = {
			session_state: state.state, reason: state.reason ?? '', problem: state.problem, seed: state.seed, queue_position: state.queue_position,
			name: state.labels?.name ?? state.labels?.show ?? (store.get('name') || state.id.slice(0, 6)), viewers: state.viewers,
		};
		store.set(Object.fromEntries(Object.entries(known).filter(([, value]) => value !== undefined)));
		// Nothing more will come; a new connection would only be told that there is no such session.
		if (state.state === 'failed' || state.state === 'ended')
			this.socket?.stop();
		if (state.chunk !== undefined && !store.get('has_picture'))
			store.set({ chunk: state.chunk });
		store.touch('prompts');
	}

	#chunk_begin(message)
	{
		const now_ms = page_now_ms();
		this.begun_ms = now_ms;
		this.store.set({ making_chunk: message.chunk });
		this.#moved(this.prompts.chunk_began(message, now_ms));
	}

	#chunk_end(message)
	{
		this.chunks.add(message);
		this.store.set({ usual_ms: median(this.chunks.values.map(work_ms)) });
		this.prompts.chunk_ended(message);
		this.store.touch('chunks');
	}

	#lag(message)
	{
		this.server_dropped += message.dropped_frames;
		this.player.gate.reset();
		this.store.set({ passing: PASSING.behind(message.dropped_frames) });
	}

	#notice({ code, text })
	{
		const draining = code === 'draining';
		if (draining)
			this.store.set({ draining });
		this.store.set({ passing: PASSING.notice(draining ? 'The server is restarting. Your session is saved and comes back by itself.' : text) });
	}

	#error(message)
	{
		const prompt = message.event_id && this.prompts.follow({ ...message, type: 'prompt.error' });
		if (prompt)
			this.#moved(prompt);
		else
			this.on.said(prompt_problem_words(message));
	}

	#frame(frame)
	{
		frame.place = this.reel.take(frame);
		if (frame.first && !frame.replayed)
			this.rates.encoded.add(performance.now(), frame.frames);
		this.#moved(this.prompts.arrived(frame));
		this.on.arrived(frame);
		this.player.push(frame);
		this.store.touch('film');
	}

	#shown(report)
	{
		const { frame, shown_ms } = report;
		this.shown_frames++;
		this.last_shown_ms = shown_ms;
		this.runs_dry_ms = shown_ms + report.lead_ms;
		this.rates.shown.add(performance.now());
		this.report = report;
		this.screen_at = frame.place + frame.frame / frame.frames;
		if (frame.first)
			this.whole_chunk = frame.place;
		if (this.store.get('late') && frame.last && this.whole_chunk === frame.place)
			this.store.set({ late: false });
		const turned = this.prompts.shown_revision !== frame.revision;
		const seen = this.prompts.seen(frame, shown_ms, this.screen_at);
		this.store.set({ has_picture: true, chunk: frame.chunk, media_ms: frame.pts_us / 1000 });
		this.on.shown(report);
		if (turned) {
			this.on.seen(seen, frame);
			this.store.touch('prompts');
		}
		this.#moved(seen);
		if (frame.last)
			this.#report(report);
	}

	#report({ frame, waiting, decode_ms, late_frames })
	{
		this.socket.send({
			type: 'viewer.report', shown_seq: frame.seq, buffered_frames: waiting,
			decode_us: Math.round((decode_ms || 0) * 1000), dropped: late_frames + this.player.dropped_frames,
		});
	}

	#moved(prompt)
	{
		if (!prompt)
			return;
		if (prompt.chunk !== undefined && prompt.lands_at === undefined)
			prompt.lands_at = this.reel.place_of_chunk(prompt.chunk);
		if (prompt.state === 'rejected')
			prompt.problem_words ??= prompt_problem_words(prompt.problem);
		this.store.touch('prompts');
		this.on.moved(prompt);
	}

	// ---- the connection

	#down({ tries, delay_ms })
	{
		const until_ms = performance.now() + delay_ms;
		this.store.set({ socket_open: false, tries, late: false, viewers: 0 });
		clearInterval(this.retry_timer);
		const count = () => this.store.set({ retry_in_s: Math.max(0, Math.ceil((until_ms - performance.now()) / 1000)) });
		count();
		this.retry_timer = setInterval(count, WATCH_MS);
		if (tries > 1)
			this.#look_whether_loading();
	}

	async #look_whether_loading()
	{
		const readiness = await get_readiness().catch(() => null);
		if (!this.store.get('socket_open'))
			this.store.set({ loading: readiness && !readiness.ready ? readiness : null });
	}

	// A session that the server does not know may only be not yet read back after a restart.
	async #closed({ kind, code, reason })
	{
		clearInterval(this.retry_timer);
		this.store.set({ socket_open: false, closed_reason: reason || `Close code ${code}.` });
		if (kind === 'gone' && this.shown_frames && await this.#comes_back())
			return;
		this.store.set({ closed_kind: kind });
	}

	async #comes_back()
	{
		for (;;) {
			const readiness = await get_readiness().catch(() => ({ ready: false }));
			this.store.set({ loading: readiness.ready ? null : readiness });
			if (readiness.ready)
				break;
			await new Promise((resolve) => setTimeout(resolve, READY_POLL_MS));
		}
		const state = await get_session(this.id).catch(() => null);
		if (!state)
			return false;
		this.socket.closed = false;
		this.socket.connect();
		return true;
	}

	// Four times a second: is the next chunk late?
	#watch()
	{
		const { store } = this;
		const config = store.get('config');
		if (!this.report || !config || store.get('session_state') !== 'running' || !store.get('socket_open') || document.hidden)
			return;
		const late_ms = page_now_ms() - this.runs_dry_ms;
		if (late_ms > LATE_CHUNKS * this.report.frame.chunk_ms)
			store.set({ late: true });
		if (store.get('late'))
			store.set({ late_ms: page_now_ms() - Math.max(this.begun_ms ?? 0, this.runs_dry_ms - this.report.frame.chunk_ms) });
	}

	#visibility()
	{
		this.socket.send({ type: 'viewer.visible', visible: !document.hidden });
		if (!document.hidden)
			this.player.reset();
		this.runs_dry_ms = page_now_ms();
	}

	// ---- what people ask for

	async set_prompt(text, mode)
	{
		const event_id = `${this.event_stem}-${++this.event_number}`;
		const prompt = this.prompts.ask({ event_id, text, mode, now_ms: page_now_ms(), place: this.screen_at });
		const body = { event_id, text, transition: { mode } };
		this.#moved(prompt);
		if (this.socket.send({ type: 'prompt.set', ...body }))
			return;
		try {
			const answer = await send_prompt(this.id, body);
			this.#moved(this.prompts.follow({ type: 'prompt.accepted', ...answer, event_id }, page_now_ms()));
		} catch (problem) {
			this.#moved(this.prompts.follow({ ...problem.body, type: 'prompt.rejected', event_id, code: problem.code, message: problem.message }));
		}
	}

	// Asks to take back what waits; whether it was in time is the server's to say.
	cancel_pending()
	{
		const prompt = this.prompts.list.findLast((entry) => entry.mine && entry.state === 'accepted');
		return !!prompt && this.socket.send({ type: 'prompt.cancel', id: prompt.id });
	}

	control(action, fields = {})
	{
		return !!this.socket?.send({ type: 'control', action, ...fields });
	}

	get is_open()
	{
		return this.socket !== undefined;
	}

	get open_prompt()
	{
		return this.prompts.list.findLast((prompt) => is_open(prompt));
	}

	// Shown, encoded and generated frames a second; NaN while unknown.
	frame_rates()
	{
		const now = performance.now();
		const done = this.chunks.values.slice(-6);
		const made_ms = done.reduce((sum, chunk) => sum + work_ms(chunk), 0);
		const frames = done.reduce((sum, chunk) => sum + chunk.frames, 0);
		return {
			generated: made_ms ? frames * 1000 / made_ms : NaN,
			encoded: this.rates.encoded.per_second(now), shown: this.rates.shown.per_second(now),
		};
	}
}
