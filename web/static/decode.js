// SPDX-License-Identifier: Apache-2.0
// The worker that decodes and paints: encoded frames wait here, at most a few are decoded ahead, and
// one animation loop paints the newest one that is due. Frames of a replay (what the server kept since
// its last key frame) are decoded as fast as they come and only the last of them is painted.
// It keeps no socket and asks for nothing; main is told what was shown and when a key frame is needed.

import { Ambient } from './ambient.js';
import { PlayoutClock } from './clock.js';

const DECODE_AHEAD = 4;         // hardware decoders stop when more frames than these are held
const WAITING_MOST = 1200;      // encoded frames; beyond it the page is hopelessly behind
const STILL_AFTER_MS = 60;      // a replay has ended when it was quiet for this long
const DUE_SLACK_MS = 4;
const THUMB_PX = 128;

const wall_ms = (now) => performance.timeOrigin + now;
const next_tick = globalThis.requestAnimationFrame ?? ((fn) => setTimeout(() => fn(performance.now()), 8));

const player = {
	canvas: null, context: null, ambient: null,
	clock: null, config: null, decoder: null,
	waiting: [],    // frames and configs in the order of the wire
	decoding: new Map(), // pts -> frame handed to the decoder
	ready: [],      // {picture, frame} decoded, not yet painted; owned here, closed here
	still: null,    // {picture, frame, at_ms} the newest picture of a replay
	late_frames: 0, decode_ms: 0, thumbed: '',
};

function open_decoder()
{
	const decoder = new VideoDecoder({
		output: (picture) => take_picture(decoder, picture),
		error: (error) => decoder === player.decoder && fail_decoder(error),
	});
	player.decoder = decoder;
	configure_decoder();
}

function configure_decoder()
{
	const { codec, width, height, color } = player.config;
	player.decoder.configure({
		codec, codedWidth: width, codedHeight: height, optimizeForLatency: true,
		...(color ? { colorSpace: color } : {}),
	});
}

// A decoder that met an error is closed for good: drop everything, a key frame starts a new one.
function fail_decoder(error)
{
	forget_frames();
	if (player.decoder?.state !== 'closed')
		player.decoder?.close();
	player.decoder = null;
	postMessage({ type: 'need_key', reason: String(error?.message ?? error) });
}

function forget_frames()
{
	player.ready.splice(0).forEach((entry) => entry.picture.close());
	player.still?.picture.close();
	player.still = null;
	const last_config = player.waiting.findLast((entry) => entry.config);
	player.waiting = [];
	player.decoding.clear();
	if (last_config)
		player.config = last_config.config;
	player.clock?.reset();
}

function feed()
{
	while (player.waiting.length) {
		const frame = player.waiting[0];
		if (frame.config) {
			player.config = frame.config;
			if (player.decoder)
				configure_decoder();
			player.waiting.shift();
			continue;
		}
		const unpainted = frame.replayed || frame.skipped;
		if (!unpainted && (player.decoder?.decodeQueueSize ?? 0) + player.ready.length >= DECODE_AHEAD)
			return;
		player.waiting.shift();
		decode_frame(frame);
	}
}

function decode_frame(frame)
{
	try {
		if (!player.decoder)
			open_decoder();
		frame.decode_began_ms = performance.now();
		player.decoding.set(frame.pts_us, frame);
		player.decoder.decode(new EncodedVideoChunk({
			type: frame.key ? 'key' : 'delta', timestamp: frame.pts_us, data: frame.data,
		}));
		frame.data = null;
	} catch (error) {
		fail_decoder(error);
	}
}

function take_picture(decoder, picture)
{
	const frame = player.decoding.get(picture.timestamp);
	player.decoding.delete(picture.timestamp);
	if (!frame || decoder !== player.decoder) {
		picture.close();
		return;
	}
	player.decode_ms += (performance.now() - frame.decode_began_ms - player.decode_ms) / 16;
	if (frame.replayed) {
		if (frame.first)
			post_thumb(picture, frame);
		player.still?.picture.close();
		player.still = { picture, frame, at_ms: performance.now() };
	} else if (frame.skipped) {
		picture.close();
	} else {
		player.ready.push({ picture, frame });
	}
	feed();
}

// Far behind: what waits is still decoded, but only the newest chunk is painted.
function skip_to_newest(now)
{
	const frames = player.waiting.filter((entry) => !entry.config);
	const newest = frames[frames.length - 1];
	if (!newest)
		return;
	const start = frames.find((frame) => frame.chunk === newest.chunk && frame.epoch === newest.epoch);
	const skip = (frame) => { if (frame.seq < start.seq) { frame.skipped = true; player.late_frames++; } };
	frames.forEach(skip);
	player.decoding.forEach(skip);
	player.ready.splice(0).forEach((entry) => { entry.picture.close(); player.late_frames++; });
	player.clock.jump(start.pts_us / 1000, now);
}

function tick(now)
{
	if (player.clock.tick(now))
		skip_to_newest(now);
	let pick = -1;
	while (pick + 1 < player.ready.length && player.clock.due(player.ready[pick + 1].frame.pts_us / 1000) <= now + DUE_SLACK_MS)
		pick++;
	if (pick >= 0) {
		player.still?.picture.close();
		player.still = null;
		player.late_frames += pick;
		player.ready.splice(0, pick).forEach((entry) => entry.picture.close());
		const { picture, frame } = player.ready.shift();
		paint(picture, frame, now);
	} else if (player.still && now - player.still.at_ms > STILL_AFTER_MS) {
		const { picture, frame } = player.still;
		player.still = null;
		paint(picture, frame, now);
	}
	feed();
	next_tick(tick);
}

function paint(picture, frame, now)
{
	const { canvas, context } = player;
	if (canvas.width !== picture.displayWidth || canvas.height !== picture.displayHeight) {
		canvas.width = picture.displayWidth;
		canvas.height = picture.displayHeight;
	}
	context.drawImage(picture, 0, 0, canvas.width, canvas.height);
	player.ambient.draw(picture, now);
	post_thumb(picture, frame);
	picture.close();
	const { data, ...shown } = frame;
	postMessage({
		type: 'shown', frame: shown, shown_ms: wall_ms(now),
		lead_ms: Math.max(0, player.clock.lead_ms(now)), buffer_ms: player.clock.buffer_ms,
		late_frames: player.late_frames, underruns: player.clock.underruns,
		decode_ms: player.decode_ms, waiting: player.waiting.length + player.ready.length,
		stretch: player.clock.stretch,
	});
}

// One small picture per chunk for the film, from the first frame of it that this page decoded.
function post_thumb(picture, frame)
{
	const name = `${frame.epoch}/${frame.chunk}`;
	if (name === player.thumbed)
		return;
	player.thumbed = name;
	const height = Math.max(1, Math.round(THUMB_PX * picture.displayHeight / picture.displayWidth));
	const small = new OffscreenCanvas(THUMB_PX, height);
	small.getContext('2d', { alpha: false }).drawImage(picture, 0, 0, THUMB_PX, height);
	const bitmap = small.transferToImageBitmap();
	postMessage({ type: 'thumb', epoch: frame.epoch, chunk: frame.chunk, bitmap }, [bitmap]);
}

function take_frame(frame)
{
	const now = performance.now();
	if (player.waiting.length >= WAITING_MOST) {
		fail_decoder('too many frames wait');
		return;
	}
	// After a short break the film may still be playing: what is replayed but not yet due is shown in its
	// turn. It says nothing about jitter.
	const resumed = frame.replayed && player.clock.running && player.clock.due(frame.pts_us / 1000) >= now;
	frame.replayed &&= !resumed;
	if (!frame.replayed)
		player.clock.arrive({ pts_ms: frame.pts_us / 1000, first: frame.first && !resumed, chunk_ms: frame.chunk_ms, frame_ms: frame.frame_ms, now_ms: now });
	player.waiting.push(frame);
	feed();
}

const handlers = {
	start({ canvas, ambient, loopback, ambient_still }) {
		player.canvas = canvas;
		player.context = canvas.getContext('2d', { alpha: false, desynchronized: true });
		player.ambient = new Ambient(ambient, ambient_still);
		player.clock = new PlayoutClock({ loopback });
		next_tick(tick);
	},
	config: ({ config }) => { player.waiting.push({ config }); feed(); },
	frame: ({ frame }) => take_frame(frame),
	reset: () => {
		forget_frames();
		if (player.decoder?.state === 'configured')
			player.decoder.close();
		player.decoder = null;
	},
};

onmessage = ({ data }) => handlers[data.type]?.(data);
