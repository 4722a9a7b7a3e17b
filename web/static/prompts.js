// SPDX-License-Identifier: Apache-2.0
// Every prompt of this stream and how far it has come: asked, accepted, begun, arrived, seen; or
// superseded, rejected, taken back. It only follows what the page did and what the wire said. Pure.
// Times are milliseconds of the page's clock; a server time is moved there by the caller's to_page_ms.

const KEPT = 200;
const OPEN = new Set(['asked', 'accepted', 'begun', 'arrived']);

const LOST = new Set(['superseded', 'rejected', 'cancelled']);

export const is_open = (prompt) => OPEN.has(prompt.state);
export const is_lost = (prompt) => LOST.has(prompt.state);

export class Prompts
{
	constructor()
	{
		this.list = [];         // oldest first
		this.shown_revision = 0;
		this.newest_revision = 0;
	}

	by_event(event_id)
	{
		return event_id ? this.list.findLast((prompt) => prompt.event_id === event_id) : undefined;
	}

	by_revision(revision)
	{
		return this.list.findLast((prompt) => prompt.revision === revision);
	}

	get shown()
	{
		return this.by_revision(this.shown_revision);
	}

	// The newest prompt that is still on its way, or undefined.
	get pending()
	{
		return this.list.findLast(is_open);
	}

	get newest_mine()
	{
		return this.list.findLast((prompt) => prompt.mine);
	}

	get next_revision()
	{
		return this.newest_revision + (this.list.some((prompt) => prompt.state === 'asked') ? 2 : 1);
	}

	#add(prompt)
	{
		this.list.push(prompt);
		if (this.list.length > KEPT)
			this.list.shift();
		return prompt;
	}

	#number(prompt, revision)
	{
		if (!(revision > 0))
			return;
		prompt.revision = revision;
		this.newest_revision = Math.max(this.newest_revision, revision);
	}

	// What hello says about prompts of before; `entries` oldest first.
	restore(entries)
	{
		for (const entry of entries) {
			if (entry.revision && this.by_revision(entry.revision))
				continue;
			const prompt = this.#add({
				id: entry.id, event_id: entry.event_id, text: entry.text, mode: entry.transition?.mode ?? 'switch',
				chunk: entry.applies_at_chunk ?? entry.chunk, state: entry.state === 'applied' ? 'past' : 'accepted', mine: false,
			});
			this.#number(prompt, entry.revision);
		}
		this.list.sort((a, b) => (a.revision ?? Infinity) - (b.revision ?? Infinity));
	}

	ask({ event_id, text, mode, now_ms, place })
	{
		return this.#add({ event_id, text, mode, asked_ms: now_ms, asked_at: place, state: 'asked', mine: true });
	}

	// One prompt.* message, or an error that names an event_id. Returns the prompt it moved, if any.
	follow(message, now_ms, place)
	{
		const action = message.type.replace('prompt.', '');
		let prompt = this.by_event(message.event_id) ?? this.list.findLast((entry) => message.id && entry.id === message.id);
		if (action === 'accepted') {
			prompt ??= this.#add({
				event_id: message.event_id, state: 'asked', mine: false, text: message.text ?? '',
				mode: message.transition?.mode ?? 'switch', asked_at: place,
			});
			this.#accept(prompt, message, now_ms);
			return prompt;
		}
		if (!prompt || !is_open(prompt))
			return undefined;
		if (action === 'applied') {
			prompt.chunk = message.chunk ?? prompt.chunk;
			if (prompt.state === 'accepted')
				prompt.state = 'begun';
		} else if (action === 'superseded') {
			prompt.state = 'superseded';
			prompt.by_revision = message.by_revision;
		} else if (action === 'rejected' || action === 'error') {
			prompt.state = 'rejected';
			prompt.problem = message;
		} else if (action === 'cancelled') {
			prompt.state = 'cancelled';
		} else {
			return undefined;
		}
		return prompt;
	}

	#accept(prompt, message, now_ms)
	{
		prompt.id = message.id;
		prompt.chunk = message.applies_at_chunk ?? message.chunk;
		prompt.accepted_us = message.ts_us;
		prompt.accepted_ms = now_ms;
		if (message.text)
			prompt.text = message.text;
		this.#number(prompt, message.revision);
		// The answer can be overtaken by the first frame of its chunk; never go back.
		if (prompt.state === 'asked')
			prompt.state = 'accepted';
	}

	chunk_began(message, now_ms)
	{
		const prompt = this.by_revision(message.prompt_revision);
		if (!prompt || prompt.state !== 'accepted')
			return undefined;
		prompt.state = 'begun';
		prompt.chunk = message.chunk;
		prompt.begun_us = message.ts_us;
		prompt.begun_ms = now_ms;
		return prompt;
	}

	chunk_ended(message)
	{
		const prompt = this.list.findLast((entry) => entry.revision === message.prompt_revision && entry.chunk === message.chunk);
		if (prompt)
			prompt.timings = message.timings;
		return prompt;
	}

	arrived(frame)
	{
		const prompt = this.by_revision(frame.revision);
		if (!prompt || prompt.arrived_ms !== undefined || !is_open(prompt))
			return undefined;
		prompt.arrived_ms = frame.arrived_ms;
		prompt.sent_us = frame.sent_ts_us;
		prompt.chunk = frame.chunk;
		prompt.state = 'arrived';
		return prompt;
	}

	// A frame was painted. Returns the prompt that is seen for the first time, if any; older ones that
	// never reached the screen are marked as replaced.
	seen(frame, shown_ms, place)
	{
		const turned = this.shown_revision !== frame.revision;
		this.shown_revision = frame.revision;
		this.newest_revision = Math.max(this.newest_revision, frame.revision);
		const prompt = this.by_revision(frame.revision);
		if (!turned || !prompt || prompt.seen_ms !== undefined)
			return undefined;
		const first_time = is_open(prompt);
		prompt.state = 'seen';
		prompt.seen_ms = shown_ms;
		prompt.seen_at = place;
		if (prompt.asked_ms !== undefined)
			prompt.delay_ms = shown_ms - prompt.asked_ms;
		for (const older of this.list)
			if (is_open(older) && older.revision < frame.revision) {
				older.state = 'superseded';
				older.by_revision = frame.revision;
			}
		return first_time ? prompt : undefined;
	}
}

// Where the time of one seen prompt went: six parts in milliseconds that sum to its delay, in order.
// null while something is missing (not asked here, no clock offset yet).
export function delay_parts(prompt, to_page_ms)
{
	const { asked_ms, accepted_us, begun_us, sent_us, arrived_ms, seen_ms, timings } = prompt;
	if ([asked_ms, accepted_us, begun_us, sent_us, arrived_ms, seen_ms].some((value) => value === undefined))
		return null;
	const marks = [asked_ms, to_page_ms(accepted_us), to_page_ms(begun_us), NaN, to_page_ms(sent_us), arrived_ms, seen_ms];
	if (Number.isNaN(marks[1]))
		return null;
	const generated_ms = timings ? (timings.condition_us + timings.dit_us + timings.vae_us) / 1000 : 0;
	// A frame may leave before its whole chunk is through: then nothing of it waited for the encoder.
	marks[3] = Math.min(marks[2] + generated_ms, marks[4]);
	// The offset is a guess to within half a round trip; no part may be negative, the sum stays exact.
	for (let i = 1; i < marks.length - 1; i++)
		marks[i] = Math.min(Math.max(marks[i], marks[i - 1]), seen_ms);
	return ['accepted', 'waited', 'generated', 'encoded', 'travelled', 'shown'].map((name, i) => ({
		name, start_ms: marks[i] - asked_ms, ms: marks[i + 1] - marks[i],
	}));
}
