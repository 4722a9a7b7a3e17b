// SPDX-License-Identifier: Apache-2.0
// WebM for Media Source Extensions, made on the page from the frames of the socket: one init segment,
// then one cluster per frame. Only what a VP9 video track without sound needs. Pure.

const CLUSTER_TIME_MOST = 2 ** 47;

function size_bytes(n)
{
	// Four bytes for every size: fixed length keeps nesting simple (up to 256 MiB).
	return [0x10 | n >>> 24, n >>> 16 & 255, n >>> 8 & 255, n & 255];
}

function id_bytes(id)
{
	const bytes = [];
	for (let n = id; n > 0; n = Math.floor(n / 256))
		bytes.unshift(n & 255);
	return bytes;
}

function uint_bytes(value)
{
	const bytes = [];
	let n = value;
	do {
		bytes.unshift(n % 256);
		n = Math.floor(n / 256);
	} while (n > 0);
	return bytes;
}

const text_bytes = (text) => [...text].map((c) => c.charCodeAt(0));
const element = (id, ...parts) => {
	const body = parts.flat();
	return [...id_bytes(id), ...size_bytes(body.length), ...body];
};
const uint = (id, value) => element(id, uint_bytes(value));
const text = (id, value) => element(id, text_bytes(value));

// Matroska numbers colours as ISO/IEC 23091-2 does; the wire names them as VideoColorSpaceInit does.
const MATRIX = { rgb: 0, bt709: 1, bt470bg: 5, smpte170m: 6, 'bt2020-ncl': 9 };
const TRANSFER = { bt709: 1, smpte170m: 6, linear: 8, 'iec61966-2-1': 13, pq: 16, hlg: 18 };
const PRIMARIES = { bt709: 1, bt470bg: 5, smpte170m: 6, bt2020: 9, smpte432: 12 };

function colour(color)
{
	if (!color)
		return [];
	return element(0x55b0,
		uint(0x55b1, MATRIX[color.matrix] ?? 2),
		uint(0x55b9, color.fullRange ? 2 : 1),
		uint(0x55ba, TRANSFER[color.transfer] ?? 2),
		uint(0x55bb, PRIMARIES[color.primaries] ?? 2));
}

// EBML head, an endless Segment, Info in milliseconds, one track.
export function webm_init({ width, height, fps_num, fps_den, color })
{
	const head = element(0x1a45dfa3,
		uint(0x4286, 1), uint(0x42f7, 1), uint(0x42f2, 4), uint(0x42f3, 8),
		text(0x4282, 'webm'), uint(0x4287, 4), uint(0x4285, 2));
	const info = element(0x1549a966, uint(0x2ad7b1, 1000000), text(0x4d80, 'lightforced'), text(0x5741, 'lightforced'));
	const track = element(0xae,
		uint(0xd7, 1), uint(0x73c5, 1), uint(0x9c, 0), uint(0x83, 1), text(0x86, 'V_VP9'),
		uint(0x23e383, Math.round(1e9 * fps_den / fps_num)),
		element(0xe0, uint(0xb0, width), uint(0xba, height), colour(color)));
	return new Uint8Array([
		...head,
		...id_bytes(0x18538067), 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		...info,
		...element(0x1654ae6b, track),
	]);
}

// One frame as a cluster of its own, at time_ms, lasting duration_ms (a BlockGroup, so that the last
// frame is shown without waiting for the next one).
export function webm_cluster({ time_ms, duration_ms, key, data })
{
	if (!(time_ms >= 0 && time_ms < CLUSTER_TIME_MOST))
		throw new RangeError(`cluster time ${time_ms} ms is outside what a cluster can hold`);
	const time = uint(0xe7, time_ms);
	const duration = uint(0x9b, Math.max(1, duration_ms));
	// A block that refers to the one before is a delta frame; -1 is enough for every reader.
	const reference = key ? [] : element(0xfb, [0xff]);
	const block_head = [0x81, 0, 0, 0];
	const block_bytes = block_head.length + data.length;
	const block = [0xa1, ...size_bytes(block_bytes), ...block_head];
	const group_bytes = block.length + data.length + duration.length + reference.length;
	const group = [0xa0, ...size_bytes(group_bytes)];
	const head = [
		...id_bytes(0x1f43b675), ...size_bytes(time.length + group.length + group_bytes), ...time, ...group, ...block,
	];
	const out = new Uint8Array(head.length + data.length + duration.length + reference.length);
	out.set(head);
	out.set(data, head.length);
	out.set([...duration, ...reference], head.length + data.length);
	return out;
}
