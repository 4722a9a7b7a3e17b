// SPDX-License-Identifier: Apache-2.0
// How new words take over: the button in the line and the shelf above it, built from what the model can
// do. Which modes there are, in which order, and what they cost comes from the server.

import { by_id, element, icon, mode_glyph, redraw } from './dom.js';
import { kept_in_tab } from './store.js';

const LINES = {
	switch: 'Drift. New words, same memory: the picture follows over the next chunks.',
	recache: 'Turn. Same scene, its memory reread under the new words: changes at once.',
	cut: 'New scene. Forgets the picture and starts again from the words alone.',
};

export function cost_words(mode)
{
	const chunks = mode.cost_chunks ?? 0;
	const cost = chunks ? `${chunks} ${chunks > 1 ? 'chunks' : 'chunk'}` : 'free';
	if (mode.name === 'cut')
		return `${cost}, key frame`;
	return chunks ? `${cost}, once` : cost;
}

export class Modes
{
	constructor({ store })
	{
		this.store = store;
		this.button = by_id('mode');
		this.shelf = by_id('shelf');
		this.button.onclick = () => this.toggle();
		this.shelf.addEventListener('keydown', (event) => this.#key(event));
		document.addEventListener('pointerdown', (event) => {
			if (!this.shelf.hidden && !event.target.closest('#shelf, #mode, .chip.m'))
				this.close(false);
		});
		store.on(['capabilities', 'session_id'], () => this.#choose_first());
	}

	get all()
	{
		return this.store.get('capabilities')?.modes ?? [];
	}

	get chosen()
	{
		return this.all.find((mode) => mode.name === this.name) ?? this.all[0];
	}

	#choose_first()
	{
		this.name = kept_in_tab.get(`mode.${this.store.get('session_id')}`) ?? this.all[0]?.name;
		this.#draw();
	}

	choose(name)
	{
		this.name = name;
		kept_in_tab.set(`mode.${this.store.get('session_id')}`, name);
		this.#draw();
	}

	toggle()
	{
		if (!this.shelf.hidden) {
			this.close();
			return;
		}
		this.shelf.hidden = false;
		this.button.setAttribute('aria-expanded', 'true');
		this.shelf.querySelector('[aria-checked=true]')?.focus();
	}

	// back: give the focus to the line again.
	close(back = true)
	{
		if (this.shelf.hidden)
			return false;
		this.shelf.hidden = true;
		this.button.setAttribute('aria-expanded', 'false');
		if (back)
			by_id('words').focus();
		return true;
	}

	// The small copy of the button that a phone shows in the row of suggestions.
	chip()
	{
		const { chosen } = this;
		return chosen && element('button', { class: 'chip m', type: 'button', 'aria-haspopup': 'true', onclick: () => this.toggle() },
			mode_glyph(chosen.name), element('span', { text: chosen.name }), icon('down'));
	}

	#draw()
	{
		const { chosen } = this;
		this.button.hidden = !chosen;
		if (!chosen)
			return;
		redraw(this.button, `${chosen.name} ${cost_words(chosen)}`, () => [
			mode_glyph(chosen.name),
			element('span', {}, element('b', { text: chosen.name }), element('small', { text: cost_words(chosen) })),
			icon('down', 'i chev'),
		]);
		const focused = this.shelf.contains(document.activeElement);
		redraw(this.shelf, JSON.stringify([this.all, chosen.name]), () => this.all.map((mode) => this.#radio(mode, mode === chosen)));
		if (focused)
			this.shelf.querySelector('[aria-checked=true]').focus();
		this.store.touch('mode');
	}

	#radio(mode, checked)
	{
		return element('button', {
			class: 'm', type: 'button', role: 'radio', 'aria-checked': String(checked), tabindex: checked ? '0' : '-1',
			onclick: () => { this.choose(mode.name); this.close(); },
		},
		mode_glyph(mode.name), element('b', { text: mode.name }), element('span', { class: 'cst', text: cost_words(mode) }),
		element('p', { text: LINES[mode.name] ?? mode.description ?? '' }));
	}

	#key(event)
	{
		const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
		if (step) {
			const at = this.all.indexOf(this.chosen);
			this.choose(this.all[(at + step + this.all.length) % this.all.length].name);
		} else if (event.key === 'Escape' || event.key === 'Enter') {
			this.close();
		} else {
			return;
		}
		event.preventDefault();
		event.stopPropagation();
	}
}
