// SPDX-License-Identifier: Apache-2.0
// The fallback player for pages without WebCodecs (plain http on a name of the local network): the
// frames are wrapped as WebM on the page and shown by a <video> through Media Source Extensions.
// Same hooks as the decoding worker. The media time line is this page's own and has no gaps.

import { Ambient } from './ambient.js';
import { CATCH_UP_CHUNKS, PlayoutClock } from './clock.js';
import { webm_cluster, webm_init } from './webm.js';

const QUEUE_MOST = 1200;        // clusters not yet taken by the browser
const KEEP_BEHIND_S = 8;
const TICK_MS = 100;
const THUMB_PX = 128;
const MediaSourceKind = globalThis.ManagedMediaSource ?? globalThis.MediaSource;

export const buffered_type = (config) => `video/webm; codecs="${config.codec}"`;
export const buffered_supported = (config) => !!MediaSourceKind?.isTypeSupported(buffered_type(config));

export class BufferedPlayer
{
	constructor({ video, ambient, loopback, ambient_still, hooks })
	{
		this.video = video;
		this.hooks = hooks;
		this.ambient = new Ambient(ambient, ambient_still);
		this.clock = new PlayoutClock({ loopback });
		this.queue = [];
		this.placed = [];       // {at_s, frame}: where each appended frame lies in the video
		this.end_ms = 0;
		this.last_pts_us = null;
		this.seek_to = null;    // {at_s, replayed}: where to go once it is buffered
		this.late_frames = 0;
		this.thumbed = '';
		this.buffer = null;
		this.source = new MediaSourceKind();
		this.source.addEventListener('sourceopen', () => this.#open(), { once: true });
		this.source.addEventListener('startstreaming', () => this.#append());
		video.disableRemotePlayback = true;
		video.src = URL.createObjectURL(this.source);
		this.timer = setInterval(() => this.#steer(), TICK_MS);
		this.#watch_frames();
	}

	config(config)
	{
		this.video_config = config;
		this.queue.push({ config });
		this.#append();
	}

	push(frame)
	{
		if (this.queue.length >= QUEUE_MOST) {
			this.reset();
			this.hooks.need_key('too many frames wait');
			return;
		}
		const now = performance.now();
		const step_ms = (frame.pts_us - this.last_pts_us) / 1000;
		const follows = this.last_pts_us !== null && step_ms > 0 && step_ms < 2 * frame.chunk_ms;
		const at_ms = follows ? Math.max(this.end_ms - frame.frame_ms, 0) + step_ms : this.end_ms;
		const time_ms = Math.round(at_ms);
		this.end_ms = at_ms + frame.frame_ms;
		this.last_pts_us = frame.pts_us;
		if (!frame.replayed)
			this.clock.arrive({ pts_ms: frame.pts_us / 1000, first: frame.first, chunk_ms: frame.chunk_ms, frame_ms: frame.frame_ms, now_ms: now });
		if (this.seek_to === null && (!follows || this.placed.length === 0))
			this.seek_to = { at_s: time_ms / 1000, replayed: frame.replayed };
		else if (this.seek_to?.replayed)
			this.seek_to = { at_s: time_ms / 1000, replayed: frame.replayed };
		this.queue.push({ cluster: webm_cluster({ time_ms, duration_ms: Math.round(this.end_ms) - time_ms, key: frame.key, data: frame.data }) });
		this.placed.push({ at_s: time_ms / 1000, frame: { ...frame, data: null } });
		this.#append();
	}

	// Forgets what was queued; the next key frame goes on from the end of the media time line.
	reset()
	{
		this.queue = this.queue.filter((entry) => entry.config);
		this.last_pts_us = null;
		this.seek_to = null;
		this.clock.reset();
	}

	close()
	{
		clearInterval(this.timer);
		this.video.removeAttribute('src');
	}

	#open()
	{
		URL.revokeObjectURL(this.video.src);
		this.#append();
	}

	#append()
	{
		while (this.source.readyState === 'open' && this.queue.length && !this.buffer?.updating) {
			const entry = this.queue.shift();
			try {
				if (entry.config)
					this.#append_config(entry.config);
				else
					this.buffer?.appendBuffer(entry.cluster);
			} catch (error) {
				if (error.name === 'QuotaExceededError')
					this.#evict(1);
				else
					this.hooks.failed(error);
				return;
			}
		}
	}

	#append_config(config)
	{
		const type = buffered_type(config);
		if (!this.buffer) {
			this.buffer = this.source.addSourceBuffer(type);
			this.buffer.addEventListener('updateend', () => this.#append());
		} else if (type !== this.type) {
			this.buffer.changeType?.(type);
		}
		this.type = type;
		this.buffer.appendBuffer(webm_init(config));
	}

	#evict(keep_s)
	{
		const { buffer, video } = this;
		if (!buffer || buffer.updating || !buffer.buffered.length)
			return;
		const until = video.currentTime - keep_s;
		if (until - buffer.buffered.start(0) > 4)
			buffer.remove(0, until);
	}

	get #buffered_end()
	{
		const ranges = this.video.buffered;
		return ranges.length ? ranges.end(ranges.length - 1) : 0;
	}

	// Ten times a second: go where the live edge is, and keep the pace of the clock.
	#steer()
	{
		const { video, clock } = this;
		const end_s = this.#buffered_end;
		if (this.seek_to && end_s > this.seek_to.at_s) {
			// One millisecond inside the frame: rounding must not land on the one before.
			video.currentTime = this.seek_to.at_s + .001;
			this.seek_to = null;
		}
		if (video.paused && end_s > 0)
			video.play().catch((error) => error.name === 'NotAllowedError' && this.hooks.blocked?.());
		clock.tick(performance.now());
		const chunk_s = clock.chunk_ms / 1000 || 1;
		const lead_s = end_s - video.currentTime;
		if (clock.stretch > 1)
			video.playbackRate = Math.max(.25, 1 / clock.stretch);
		else
			video.playbackRate = lead_s > CATCH_UP_CHUNKS * chunk_s + clock.buffer_ms / 1000 ? 1.05 : 1;
		if (lead_s > 4 * chunk_s && !this.seek_to)
			this.seek_to = { at_s: end_s - chunk_s, replayed: false };
		this.#evict(KEEP_BEHIND_S);
	}

	#watch_frames()
	{
		const { video } = this;
		if (video.requestVideoFrameCallback) {
			const seen = (now, detail) => {
				this.#shown(detail.mediaTime, performance.timeOrigin + now);
				video.requestVideoFrameCallback(seen);
			};
			video.requestVideoFrameCallback(seen);
			return;
		}
		const poll = (now) => {
			if (video.readyState >= 2)
				this.#shown(video.currentTime, performance.timeOrigin + now);
			requestAnimationFrame(poll);
		};
		requestAnimationFrame(poll);
	}

	#shown(media_s, shown_ms)
	{
		let at = this.placed.length - 1;
		while (at >= 0 && this.placed[at].at_s > media_s + .002)
			at--;
		if (at < 0 || this.placed[at].frame.seq === this.shown_seq)
			return;
		const { frame } = this.placed[at];
		this.late_frames += this.placed.slice(0, at).filter((entry) => !entry.frame.replayed && entry.frame.seq > this.shown_seq).length;
		this.placed.splice(0, at);
		this.shown_seq = frame.seq;
		this.#paint_small(frame, shown_ms);
		const lead_ms = Math.max(0, (this.#buffered_end - media_s) * 1000);
		this.hooks.shown({
			frame, shown_ms, lead_ms, buffer_ms: this.clock.buffer_ms, late_frames: this.late_frames,
			underruns: this.clock.underruns, decode_ms: NaN, waiting: this.placed.length, stretch: this.clock.stretch,
		});
	}

	#paint_small(frame, shown_ms)
	{
		this.ambient.draw(this.video, shown_ms);
		const name = `${frame.epoch}/${frame.chunk}`;
		if (name === this.thumbed)
			return;
		this.thumbed = name;
		const small = document.createElement('canvas');
		small.width = THUMB_PX;
		small.height = Math.round(THUMB_PX * this.video_config.height / this.video_config.width);
		small.getContext('2d', { alpha: false }).drawImage(this.video, 0, 0, small.width, small.height);
		this.hooks.thumb({ epoch: frame.epoch, chunk: frame.chunk, canvas: small });
	}
}
