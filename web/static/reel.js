// SPDX-License-Identifier: Apache-2.0
// The film in numbers: where each chunk lies on one endless strip, where the words turned, what is in
// work. Chunk numbers start again at a reset; places on the strip never do. Pure.

const KEPT_CHUNKS = 400;

export class Reel
{
	constructor()
	{
		this.offset = 0;        // place = chunk + offset, for the newest run of chunks
		this.newest_place = -1;
		this.first_place = null; // where this page joined
		this.turns = [];        // {revision, at, cut}
		this.keys = [];         // places of key frames
		this.epoch = null;
		this.newest_chunk = null;
	}

	// Takes a frame off the wire, gives it its place (a number, whole at the start of a chunk).
	take(frame)
	{
		if (this.newest_chunk !== null && frame.chunk < this.newest_chunk && frame.epoch !== this.epoch)
			this.offset = this.newest_place + 1 - frame.chunk;
		const cut = this.epoch !== null && frame.epoch !== this.epoch;
		this.epoch = frame.epoch;
		this.newest_chunk = frame.chunk;
		const place = frame.chunk + this.offset;
		this.newest_place = Math.max(this.newest_place, place);
		this.first_place ??= place;
		const at = place + frame.frame / frame.frames;
		const last = this.turns[this.turns.length - 1];
		if (!last || last.revision !== frame.revision || cut)
			this.turns.push({ revision: frame.revision, at, cut });
		if (frame.key)
			this.keys.push(at);
		this.#trim();
		return place;
	}

	#trim()
	{
		const oldest = this.newest_place - KEPT_CHUNKS;
		while (this.turns.length > 1 && this.turns[1].at < oldest)
			this.turns.shift();
		while (this.keys.length > 1 && this.keys[0] < oldest)
			this.keys.shift();
	}

	place_of_chunk(chunk)
	{
		return chunk + this.offset;
	}

	get oldest_kept()
	{
		return Math.max(this.first_place ?? 0, this.newest_place - KEPT_CHUNKS);
	}

	// The spans of words that touch [from, to): {revision, at, end, cut}, oldest first.
	spans(from, to)
	{
		const end_of_film = this.newest_place + 1;
		return this.turns
			.map((turn, i) => ({ ...turn, before: this.turns[i - 1]?.revision, end: this.turns[i + 1]?.at ?? Math.max(end_of_film, turn.at) }))
			.filter((span) => span.end > from && span.at < to);
	}
}
