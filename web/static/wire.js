// SPDX-License-Identifier: Apache-2.0
// The stream protocol on the page's side: the header before every encoded frame, and the order rule
// that a VP9 decoder needs. Pure: no socket, no DOM, so tests import it alone.

export const SUBPROTOCOL = 'lightforced.v1';
export const HEADER_BYTES = 48;
export const KIND_VIDEO = 1;
export const FLAG = { key: 1, discontinuity: 2, first: 4, last: 8, replayed: 16 };

// Microseconds fit a double until the year 2255; BigInt would cost more than it saves here.
const u64 = (view, at) => view.getUint32(at) * 4294967296 + view.getUint32(at + 4);

// Reads one binary message. Returns null for a kind this page does not know; throws on a header that
// contradicts itself. `data` is a view into the message, not a copy.
export function parse_frame(buffer)
{
	if (buffer.byteLength < HEADER_BYTES)
		throw new RangeError(`frame of ${buffer.byteLength} bytes is shorter than its header`);
	const view = new DataView(buffer);
	const header_bytes = view.getUint16(2);
	const payload_bytes = view.getUint32(36);
	if (view.getUint8(0) !== KIND_VIDEO)
		return null;
	if (header_bytes < HEADER_BYTES || header_bytes + payload_bytes !== buffer.byteLength)
		throw new RangeError(`frame says ${header_bytes} + ${payload_bytes} bytes, ${buffer.byteLength} came`);
	const flags = view.getUint8(1);
	return {
		key: !!(flags & FLAG.key),
		discontinuity: !!(flags & FLAG.discontinuity),
		first: !!(flags & FLAG.first),
		last: !!(flags & FLAG.last),
		replayed: !!(flags & FLAG.replayed),
		epoch: view.getUint32(4),
		seq: u64(view, 8),
		pts_us: u64(view, 16),
		chunk: view.getUint32(24),
		frame: view.getUint16(28),
		frames: view.getUint16(30),
		revision: view.getUint32(32),
		sent_ts_us: u64(view, 40),
		bytes: payload_bytes,
		data: new Uint8Array(buffer, header_bytes, payload_bytes),
	};
}

// A delta frame after a gap closes the decoder for good, so frames pass only from a key frame on and
// in unbroken order. offer() says 'pass', 'drop' (wait on), or 'gap' (the first one dropped: ask the
// server for a key frame).
export class FrameGate
{
	constructor()
	{
		this.reset();
		this.dropped = 0;
	}

	reset()
	{
		this.next_seq = -1;
		this.waiting = false;
	}

	offer(frame)
	{
		if (frame.key || (this.next_seq === frame.seq && !this.waiting)) {
			this.next_seq = frame.seq + 1;
			this.waiting = false;
			return 'pass';
		}
		// The same frame twice, as after a resume, is no gap.
		if (!this.waiting && this.next_seq > frame.seq)
			return 'drop';
		this.dropped++;
		if (this.waiting)
			return 'drop';
		this.waiting = true;
		return 'gap';
	}
}

// Seconds of media in one chunk, from what the wire says; never a constant of the page.
export const chunk_seconds = (frames, config) => frames * config.fps_den / config.fps_num;
