// SPDX-License-Identifier: Apache-2.0
// The ribbon: words over film over receipts, in chunks. Now stands still and the film moves under it by
// one step a frame. Drawn from the reel, the prompts and the small pictures the player took.

import { by_id, element, mode_glyph } from './dom.js';
import { is_open } from './prompts.js';
import { changed_first, hue, letter } from './words.js';

const THUMBS_KEPT = 400;
const FUTURE_CELLS = 6;
const MARGIN_CELLS = 2;
const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;

function place_node(node, at, wide)
{
	node.style.setProperty('--at', String(at));
	if (wide !== undefined)
		node.style.setProperty('--wide', String(wide));
	return node;
}

export class Film
{
	constructor({ store, session })
	{
		Object.assign(this, { store, session });
		this.node = by_id('film');
		this.track = by_id('track');
		this.still = matchMedia('(prefers-reduced-motion: reduce)');
		this.thumbs = new Map();        // "epoch/chunk" -> canvas
		this.chunk_of_place = new Map(); // place -> "epoch/chunk"
		this.nodes = new Map();         // key -> node on the track
		this.screen_at = 0;
		new ResizeObserver(() => this.#measure()).observe(this.node);
		store.on(['film', 'prompts', 'chunks', 'making_chunk', 'session_state'], () => this.draw());
	}

	#measure()
	{
		this.width = this.node.clientWidth;
		// As many whole seconds of film as fit; wide enough for a picture on every screen.
		this.cell = this.width < 681 ? 58 : this.width < 1300 ? 80 : 60;
		this.node.style.setProperty('--cell', `${this.cell}px`);
		this.draw();
		this.#move();
	}

	thumb({ epoch, chunk, bitmap, canvas })
	{
		let small = canvas;
		if (bitmap) {
			small = document.createElement('canvas');
			small.width = bitmap.width;
			small.height = bitmap.height;
			small.getContext('bitmaprenderer').transferFromImageBitmap(bitmap);
		}
		this.thumbs.set(`${epoch}/${chunk}`, small);
		if (this.thumbs.size > THUMBS_KEPT)
			this.thumbs.delete(this.thumbs.keys().next().value);
		this.draw();
	}

	shown(frame)
	{
		this.chunk_of_place.set(frame.place, `${frame.epoch}/${frame.chunk}`);
		const step = this.still.matches ? 0 : (frame.frame + 1) / frame.frames;
		const turned_chunk = Math.floor(this.screen_at) !== frame.place;
		this.screen_at = frame.place + Math.min(step, .999);
		if (turned_chunk)
			this.draw();
		this.#move();
		this.#progress();
	}

	#move()
	{
		this.track.style.transform = `translate3d(${-(this.screen_at * (this.cell ?? 60)).toFixed(2)}px, 0, 0)`;
		// The letter of a span that began left of the window stays at the window's edge.
		const left = this.screen_at - this.width * .72 / this.cell;
		for (const { node, start } of this.leads ?? [])
			node.firstChild.style.setProperty('--slide', `${Math.max(0, (left - start) * this.cell).toFixed(1)}px`);
	}

	// Names a place when its first frame arrives, so that unshown chunks have pictures too.
	arrived(frame)
	{
		this.chunk_of_place.set(frame.place, `${frame.epoch}/${frame.chunk}`);
		if (this.chunk_of_place.size > THUMBS_KEPT)
			this.chunk_of_place.delete(this.chunk_of_place.keys().next().value);
	}

	// As often as anyone likes; painted at most once a screen refresh.
	draw()
	{
		this.due ??= requestAnimationFrame(() => {
			this.due = undefined;
			this.#paint();
		});
	}

	#paint()
	{
		const session = this.session();
		if (!session || !this.width)
			return;
		const { reel } = session;
		const from = Math.floor(this.screen_at - this.width * .72 / this.cell) - MARGIN_CELLS;
		const to = Math.ceil(this.screen_at + this.width * .28 / this.cell) + MARGIN_CELLS;
		this.used = new Set();
		if (reel.first_place !== null) {
			this.#cells(reel, Math.max(from, 0), to);
			this.#spans(reel, session, from, to);
			this.#receipts(session, from, to);
		}
		for (const [key, node] of this.nodes)
			if (!this.used.has(key)) {
				node.remove();
				this.nodes.delete(key);
			}
		this.#move();
	}

	#node(key, build)
	{
		this.used.add(key);
		let node = this.nodes.get(key);
		if (!node) {
			node = build();
			this.nodes.set(key, node);
			this.track.append(node);
		}
		return node;
	}

	#cells(reel, from, to)
	{
		const now = Math.floor(this.screen_at);
		const making = reel.newest_place + 1;
		const running = this.store.get('session_state') === 'running';
		for (let place = from; place < Math.min(to, making + FUTURE_CELLS); place++) {
			const node = this.#node(`c${place}`, () => place_node(element('div', { class: 'cell' }), place));
			const small = this.thumbs.get(this.chunk_of_place.get(place));
			let look = 'past';
			if (place >= making)
				look = place === making && running ? 'make' : 'fut';
			else if (place === now)
				look = 'now';
			else if (place > now)
				look = 'buf';
			else if (place < reel.first_place)
				look = 'none';
			node.className = `cell ${look}`;
			if (small && small.parentNode !== node)
				node.replaceChildren(small);
			if (look === 'none')
				node.title = 'before you came';
			if (look === 'make')
				this.making = node;
		}
		this.#progress();
	}

	// The comb of the chunk in work fills by its share of what the last chunks took.
	#progress()
	{
		const session = this.session();
		const usual_ms = this.store.get('usual_ms');
		if (!this.making || !session?.begun_ms || !usual_ms)
			return;
		const done = (performance.timeOrigin + performance.now() - session.begun_ms) / usual_ms;
		this.making.style.setProperty('--done', Math.min(1, Math.max(0, done)).toFixed(2));
	}

	#spans(reel, session, from, to)
	{
		const newest = reel.turns[reel.turns.length - 1];
		this.leads = [];
		for (const span of reel.spans(from, to)) {
			const prompt = session.prompts.by_revision(span.revision);
			const before = session.prompts.by_revision(span.before);
			const mode = span.cut ? 'cut' : prompt?.mode ?? 'switch';
			const node = this.#node(`s${span.revision}@${span.at.toFixed(3)}:${prompt?.text ?? ''}`, () => this.#span(span, prompt, before, mode, !!span.before));
			const start = Math.max(span.at, from);
			const last = span.at === newest.at;
			if (span.at < from + 2 * MARGIN_CELLS)
				this.leads.push({ node, start });
			place_node(node, start, (last ? Math.max(reel.newest_place + 1, this.screen_at) : span.end) - start);
			if (span.cut)
				this.#node(`x${span.at.toFixed(3)}`, () => place_node(element('div', { class: 'cutline' }), span.at));
		}
		const pending = session.prompts.list.filter((prompt) => prompt.revision > newest.revision && is_open(prompt) && prompt.lands_at !== undefined);
		pending.forEach((prompt, i) => {
			const start = Math.max(prompt.lands_at, reel.newest_place + 1);
			const end = Math.max(pending[i + 1]?.lands_at ?? 0, start + (pending[i + 1] ? 1 : FUTURE_CELLS));
			place_node(this.#node(`g${prompt.revision}`, () => {
				const node = this.#span({ revision: prompt.revision, before: newest.revision }, prompt, session.prompts.by_revision(newest.revision), prompt.mode, true);
				node.classList.add('ghosted');
				return node;
			}), start, end - start);
		});
	}

	#span(span, prompt, before, mode, edge)
	{
		const node = element('div', { class: 'span', 'data-hue': hue(span.revision), title: prompt?.text ?? '' },
			element('span', { class: 'lead' }, element('span', { class: 'tag', text: letter(span.revision) })));
		const lead = node.firstChild;
		if (edge) {
			const glyph = mode_glyph(mode);
			glyph.style.setProperty('--g0', `var(--p${hue(span.before ?? span.revision)})`);
			glyph.style.setProperty('--g1', `var(--p${hue(span.revision)})`);
			lead.append(glyph);
		}
		lead.append(element('span', { class: 'tx', dir: 'auto', text: prompt ? changed_first(before?.text, prompt.text) : '' }));
		return node;
	}

	#receipts(session, from, to)
	{
		for (const prompt of session.prompts.list) {
			const start = prompt.asked_at;
			const waiting = is_open(prompt);
			const end = prompt.seen_at ?? (waiting ? prompt.lands_at : undefined);
			if (start === undefined || end === undefined || end < from || start > to || end <= start)
				continue;
			const name = prompt.event_id ?? prompt.id;
			const look = `brk${waiting ? ' dash' : ''}${prompt.mine ? '' : ' other'}`;
			const node = this.#node(`b${name}`, () => element('div', { 'data-hue': hue(prompt.revision ?? session.prompts.next_revision) }));
			node.className = look;
			place_node(node, start, end - start);
			const text = waiting ? 'soon' : prompt.delay_ms !== undefined ? seconds(prompt.delay_ms) : '';
			const label = this.#node(`l${name}`, () => element('div', { class: 'brkl' }));
			label.replaceChildren(element(waiting ? 'span' : 'b', { text }));
			place_node(label, end);
		}
	}
}
