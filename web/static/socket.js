// SPDX-License-Identifier: Apache-2.0
// The WebSocket of one session: connects, notices silence, comes back by itself with a growing pause,
// and keeps the offset of the server's clock. It knows no message but hello, ping and pong.

import { ClockOffset } from './stats.js';
import { SUBPROTOCOL, parse_frame } from './wire.js';

const BACKOFF_FIRST_MS = 250;
const BACKOFF_MOST_MS = 10000;
const GOOD_AFTER_MS = 10000;
const PING_MS = 4000;
const PING_FAST_MS = 250;       // until the offset rests on eight samples
const SILENCE_MOST_MS = 12000;

// Codes after which trying again is useless; 1001, 1006, 1011, 1013 and all others mean: come back.
export const FINAL_CODES = { 1000: 'ended', 1003: 'refused', 1008: 'refused', 4401: 'link', 4404: 'gone', 4410: 'gone' };

export const page_now_ms = () => performance.timeOrigin + performance.now();

// hooks: message(json), frame(frame), open(), down({try, delay_ms, reason}), closed({kind, code, reason})
export class StreamSocket
{
	constructor(path, hooks)
	{
		this.path = path;
		this.hooks = hooks;
		this.offset = new ClockOffset();
		this.last_seq = -1;
		this.tries = 0;
		this.closed = false;
		this.pings = new Map();
		this.ping_id = 0;
	}

	connect()
	{
		clearTimeout(this.retry_timer);
		const url = new URL(this.path, location.href);
		url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
		if (this.last_seq >= 0)
			url.searchParams.set('since', String(this.last_seq));
		const socket = new WebSocket(url, SUBPROTOCOL);
		this.socket = socket;
		socket.binaryType = 'arraybuffer';
		socket.onopen = () => this.#opened();
		socket.onmessage = ({ data }) => this.#received(data);
		socket.onclose = (event) => socket === this.socket && this.#closed(event);
	}

	get is_open()
	{
		return this.socket?.readyState === WebSocket.OPEN;
	}

	// Milliseconds of the page for a server time, NaN while the offset is unknown.
	to_page_ms(server_us)
	{
		return this.offset.known ? this.offset.to_page_ms(server_us) : NaN;
	}

	send(message)
	{
		if (!this.is_open)
			return false;
		this.socket.send(JSON.stringify(message));
		return true;
	}

	retry_now()
	{
		if (!this.closed && !this.is_open && this.socket?.readyState !== WebSocket.CONNECTING)
			this.connect();
	}

	stop()
	{
		this.closed = true;
		clearTimeout(this.retry_timer);
		clearTimeout(this.ping_timer);
		this.socket?.close(1000);
	}

	#opened()
	{
		this.opened_ms = this.heard_ms = performance.now();
		this.offset.samples = [];
		this.pings.clear();
		this.#ping();
		this.hooks.open();
	}

	#received(data)
	{
		this.heard_ms = performance.now();
		if (typeof data === 'string') {
			const message = JSON.parse(data);
			if (message.type === 'pong')
				this.#pong(message);
			else
				this.hooks.message(message);
			return;
		}
		const frame = parse_frame(data);
		if (!frame)
			return;
		frame.arrived_ms = page_now_ms();
		this.last_seq = Math.max(this.last_seq, frame.seq);
		this.hooks.frame(frame);
	}

	#ping()
	{
		clearTimeout(this.ping_timer);
		if (performance.now() - this.heard_ms > SILENCE_MOST_MS) {
			// A dead link never answers a closing handshake: leave it behind and start anew.
			const socket = this.socket;
			socket.onclose = null;
			socket.close();
			this.#closed({ code: 1006, reason: '' });
			return;
		}
		const id = ++this.ping_id;
		this.pings.set(id, page_now_ms());
		if (this.pings.size > 8)
			this.pings.delete(this.pings.keys().next().value);
		this.send({ type: 'ping', id });
		this.ping_timer = setTimeout(() => this.#ping(), this.offset.samples.length < 8 ? PING_FAST_MS : PING_MS);
	}

	#pong(message)
	{
		const sent_ms = this.pings.get(message.id);
		if (sent_ms === undefined)
			return;
		this.pings.delete(message.id);
		this.offset.add(sent_ms, page_now_ms(), message.ts_us / 1000);
	}

	#closed({ code, reason })
	{
		clearTimeout(this.ping_timer);
		if (this.closed)
			return;
		if (FINAL_CODES[code]) {
			this.closed = true;
			this.hooks.closed({ kind: FINAL_CODES[code], code, reason });
			return;
		}
		if (this.opened_ms && performance.now() - this.opened_ms > GOOD_AFTER_MS)
			this.tries = 0;
		this.opened_ms = 0;
		this.tries++;
		// Full jitter: many pages must not come back in the same moment.
		const delay_ms = Math.random() * Math.min(BACKOFF_MOST_MS, BACKOFF_FIRST_MS * 2 ** this.tries);
		this.retry_timer = setTimeout(() => this.connect(), delay_ms);
		this.hooks.down({ tries: this.tries, delay_ms, code, reason });
	}
}
