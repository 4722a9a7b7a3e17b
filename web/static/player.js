// SPDX-License-Identifier: Apache-2.0
// Chooses how to show the stream (WebCodecs in a worker, else Media Source Extensions), guards the
// order of frames, and gives both paths one face. Lives on the main thread.

import { BufferedPlayer, buffered_supported } from './buffered.js';
import { FrameGate, chunk_seconds } from './wire.js';

const LOOPBACK = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

class WorkerPlayer
{
	constructor({ worker, canvas, ambient, loopback, ambient_still, hooks })
	{
		this.worker = worker;
		this.worker.onmessage = ({ data }) => {
			if (data.type === 'need_key')
				hooks.need_key(data.reason);
			else
				hooks[data.type](data);
		};
		this.worker.onerror = (event) => hooks.failed(new Error(event.message || 'the decoding worker did not start'));
		const surfaces = [canvas.transferControlToOffscreen(), ambient.transferControlToOffscreen()];
		this.worker.postMessage({ type: 'start', canvas: surfaces[0], ambient: surfaces[1], loopback, ambient_still }, surfaces);
	}

	config(config)
	{
		this.worker.postMessage({ type: 'config', config });
	}

	push(frame)
	{
		this.worker.postMessage({ type: 'frame', frame }, [frame.data.buffer]);
	}

	reset()
	{
		this.worker.postMessage({ type: 'reset' });
	}
}

async function worker_supported(config)
{
	if (!HTMLCanvasElement.prototype.transferControlToOffscreen)
		return false;
	const { supported } = await VideoDecoder.isConfigSupported({
		codec: config.codec, codedWidth: config.width, codedHeight: config.height,
	}).catch(() => ({ supported: false }));
	return supported;
}

// hooks: shown(report), thumb({epoch, chunk, bitmap | canvas}), need_key(reason), unsupported(config), blocked()
export class Player
{
	// forced: 'mse' to take the fallback where WebCodecs would do.
	constructor({ canvas, video, ambient, hooks, forced })
	{
		this.surfaces = { canvas, video, ambient };
		this.hooks = hooks;
		this.forced = forced;
		this.gate = new FrameGate();
		this.path = '';
		// Started before it is known to be needed: it loads while the session is found.
		this.worker = forced === 'mse' || !globalThis.VideoDecoder ? null
			: new Worker(new URL('./decode.js', import.meta.url), { type: 'module' });
		if (this.worker)
			this.worker.onerror = (event) => { this.worker_problem = event.message || 'the decoding worker did not start'; };
		this.inner = null;
		this.early = [];
		this.choosing = null;
	}

	// Comes again with every connection and epoch; what it says rarely changes, and a decoder that is set up
	// anew would want a key frame first.
	config(config)
	{
		const { codec, width, height, fps_num, fps_den, color } = config;
		const says = JSON.stringify([codec, width, height, fps_num, fps_den, color]);
		this.video_config = config;
		if (says === this.config_says)
			return;
		this.config_says = says;
		if (this.inner)
			this.inner.config(config);
		else
			this.early.push({ config });
		this.choosing ??= this.#choose(config);
	}

	// A frame as parse_frame gave it. Frames across a gap are dropped until the next key frame.
	push(frame)
	{
		if (!this.video_config)
			return;
		const verdict = this.gate.offer(frame);
		if (verdict === 'gap')
			this.hooks.need_key('a frame is missing');
		if (verdict !== 'pass')
			return;
		frame.chunk_ms = chunk_seconds(frame.frames, this.video_config) * 1000;
		frame.frame_ms = frame.chunk_ms / frame.frames;
		if (this.inner)
			this.inner.push(frame);
		else
			this.early.push({ frame });
	}

	// After a silence or a new connection: wait for a key frame, forget what was queued.
	reset()
	{
		this.gate.reset();
		this.early = this.early.filter((entry) => entry.config);
		this.inner?.reset();
	}

	get dropped_frames()
	{
		return this.gate.dropped;
	}

	async #choose(config)
	{
		const options = {
			...this.surfaces,
			worker: this.worker,
			loopback: LOOPBACK.test(location.hostname),
			ambient_still: matchMedia('(prefers-reduced-motion: reduce)').matches,
			hooks: { ...this.hooks, failed: (error) => this.#fall_back(error, options), need_key: (reason) => this.#lose(reason) },
		};
		if (this.worker && !this.worker_problem && await worker_supported(config))
			this.#use('webcodecs', new WorkerPlayer(options));
		else if (buffered_supported(config))
			this.#use('mse', new BufferedPlayer(options));
		else
			this.hooks.unsupported(config);
	}

	#use(path, inner)
	{
		this.path = path;
		this.surfaces.canvas.hidden = path !== 'webcodecs';
		this.surfaces.video.hidden = path !== 'mse';
		this.inner = inner;
		for (const entry of this.early.splice(0))
			entry.config ? inner.config(entry.config) : inner.push(entry.frame);
	}

	// The worker could not start (blocked, or no VideoDecoder inside workers): the other path, once.
	#fall_back(error, options)
	{
		if (this.path !== 'webcodecs' || !buffered_supported(this.video_config)) {
			this.hooks.unsupported(this.video_config, error);
			return;
		}
		this.inner = null;
		// The ambient canvas went to the worker for good; a spare one keeps the code below the same.
		this.#use('mse', new BufferedPlayer({ ...options, ambient: document.createElement('canvas') }));
		this.inner.config(this.video_config);
		this.#lose(error.message);
	}

	#lose(reason)
	{
		this.gate.reset();
		this.gate.waiting = true;
		this.hooks.need_key(reason);
	}
}
