// SPDX-License-Identifier: Apache-2.0
// The playout clock: when each frame is due on screen. Frames come in bursts of a chunk; they are
// shown at an even pace, as early as the jitter of their arrival allows. Pure: times are handed in,
// all of them in milliseconds of one clock. It does not decode, draw or queue.
//
//   due(pts) = base + (pts - origin) * stretch
//
// base moves later when frames come too late (the last frame is held, never black), and creeps earlier
// when there is more slack than the jitter needs. stretch is above 1 only while the server makes media
// slower than real time: motion is then slow, but even.

import { Recent, quantile } from './stats.js';

// How fast buffer that 20 chunks did not need is given back: slowly, or by 1.02x when there is a lot of it.
const SHRINK_MS_PER_S = 5;
const SHRINK_MORE_MS_PER_S = 20;
const A_LOT_MS = 150;
export const CATCH_UP_CHUNKS = 1.5; // more than so many waiting beside the buffer: play faster
const CATCH_UP = .05;
const HURRY_CHUNKS = 2.5;       // a second of delay is worse than a visible hurry
const HURRY = .15;
const SKIP_CHUNKS = 4;
const BUFFER_LEAST_MS = 30;
const BUFFER_MOST_MS = 250;
const STRETCH_MOST = 8;
const KEPT_CHUNKS = 20;

export class PlayoutClock
{
	// loopback: frames do not jitter on their way, so no buffer is kept against it.
	constructor({ loopback = false } = {})
	{
		this.loopback = loopback;
		this.underruns = 0;
		this.reset();
	}

	// Forgets the time line (seek, scene change, long silence), keeps what was learnt about jitter.
	reset()
	{
		this.running = false;
		this.base_ms = 0;
		this.origin_ms = 0;
		this.stretch = 1;
		this.last_pts_ms = -Infinity;
		this.chunk_ms = 0;
		this.lateness ??= new Recent(KEPT_CHUNKS);
		this.slack = new Recent(KEPT_CHUNKS);
		this.intervals = new Recent(4);
		this.previous_chunk = null;
		this.ticked_ms = null;
	}

	get buffer_ms()
	{
		if (this.loopback)
			return 0;
		const late = quantile(this.lateness.values, .95) || 0;
		return Math.min(BUFFER_MOST_MS, Math.max(BUFFER_LEAST_MS, 2 * late));
	}

	due(pts_ms)
	{
		return this.base_ms + (pts_ms - this.origin_ms) * this.stretch;
	}

	// Media not yet shown at `now_ms`, in milliseconds of screen time.
	lead_ms(now_ms)
	{
		return this.running ? this.due(this.last_pts_ms) + this.frame_ms * this.stretch - now_ms : 0;
	}

	// A frame is ready to be decoded. first: it opens a chunk of chunk_ms; frame_ms is one frame.
	arrive({ pts_ms, first, chunk_ms, frame_ms, now_ms })
	{
		this.frame_ms = frame_ms;
		this.chunk_ms = chunk_ms;
		const jumped = this.running && (pts_ms <= this.last_pts_ms || pts_ms > this.last_pts_ms + 2 * chunk_ms);
		const silent = this.running && now_ms - this.due(this.last_pts_ms) > 4 * chunk_ms * this.stretch;
		if (!this.running || jumped || silent) {
			this.reset();
			this.running = true;
			this.frame_ms = frame_ms;
			this.chunk_ms = chunk_ms;
			this.origin_ms = pts_ms;
			this.base_ms = now_ms + this.buffer_ms;
		}
		this.last_pts_ms = pts_ms;
		if (first)
			this.#begin_chunk(pts_ms, now_ms);
		const late = now_ms - this.due(pts_ms);
		if (late > 0) {
			this.base_ms += late;
			if (late > frame_ms / 2)
				this.underruns++;
		}
	}

	#begin_chunk(pts_ms, now_ms)
	{
		const before = this.previous_chunk;
		this.previous_chunk = { pts_ms, now_ms };
		this.slack.add(this.due(pts_ms) - now_ms);
		if (!before)
			return;
		const media_ms = pts_ms - before.pts_ms;
		const ratio = (now_ms - before.now_ms) / media_ms;
		if (media_ms > 0)
			this.intervals.add(ratio);
		this.lateness.add(Math.max(0, now_ms - before.now_ms - media_ms * Math.max(1, this.stretch)));
		if (this.intervals.values.length < 3)
			return;
		// Slower than real time for three chunks in a row: play slower rather than stop and go.
		const pace = quantile(this.intervals.values, .5);
		const slow = pace > 1.03 && !this.#far_ahead(now_ms, CATCH_UP_CHUNKS);
		this.#set_stretch(slow ? Math.min(pace, STRETCH_MOST) : 1, now_ms);
	}

	#far_ahead(now_ms, chunks)
	{
		return this.lead_ms(now_ms) > chunks * this.chunk_ms * this.stretch + this.buffer_ms;
	}

	// Changes the pace without moving the point that is on screen now.
	#set_stretch(stretch, now_ms)
	{
		if (Math.abs(stretch - this.stretch) < .01)
			return;
		const shown_pts_ms = this.origin_ms + (now_ms - this.base_ms) / this.stretch;
		this.origin_ms = shown_pts_ms;
		this.base_ms = now_ms;
		this.stretch = stretch;
	}

	// Called about once a screen refresh: gives back buffer nobody needs. Returns true when so much
	// media waits that the caller should skip to the newest chunk instead of playing faster.
	tick(now_ms)
	{
		const elapsed_ms = this.ticked_ms === null ? 0 : Math.min(100, now_ms - this.ticked_ms);
		this.ticked_ms = now_ms;
		if (!this.running || !this.chunk_ms)
			return false;
		const lead_ms = this.lead_ms(now_ms);
		if (lead_ms > SKIP_CHUNKS * this.chunk_ms * this.stretch)
			return true;
		if (this.#far_ahead(now_ms, CATCH_UP_CHUNKS)) {
			this.#set_stretch(1, now_ms);
			this.base_ms -= elapsed_ms * (this.#far_ahead(now_ms, HURRY_CHUNKS) ? HURRY : CATCH_UP);
			return false;
		}
		const unused_ms = this.slack.values.length < 5 ? 0 : Math.min(...this.slack.values) - this.buffer_ms;
		if (unused_ms > 10)
			this.#give_back(elapsed_ms / 1000 * (unused_ms > A_LOT_MS ? SHRINK_MORE_MS_PER_S : SHRINK_MS_PER_S));
		return false;
	}

	#give_back(ms)
	{
		this.base_ms -= ms;
		this.slack.values = this.slack.values.map((slack) => slack - ms);
	}

	// Makes the frame at pts the one due now; used after skipping what waited.
	jump(pts_ms, now_ms)
	{
		this.origin_ms = pts_ms;
		this.base_ms = now_ms;
		this.slack.values = [];
	}
}
