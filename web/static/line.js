// SPDX-License-Identifier: Apache-2.0
// The prompt line. Its words stay after Enter, because people change a word, not a conversation; what
// differs from the words on screen is marked. A transparent text field lies over the marked copy of its
// text, so that typing, selection and input methods are the browser's own.

import { by_id, element, redraw, set_text } from './dom.js';
import { is_lost } from './prompts.js';
import { kept_in_tab } from './store.js';
import { byte_length, diff_words, hue, letter, one_line, slot_at } from './words.js';

const COUNT_FROM = .8;          // of the longest prompt: from here on bytes are shown

export class Line
{
	// hooks: send(text, mode_name or undefined), moved()
	constructor({ store, session, modes, hooks })
	{
		Object.assign(this, { store, session, modes, hooks });
		this.field = by_id('words');
		this.ghost = by_id('ghost');
		this.history_at = null;
		this.untouched = true;
		this.field.addEventListener('input', () => this.#typed());
		this.field.addEventListener('keydown', (event) => this.#key(event));
		for (const name of ['keyup', 'click', 'focus', 'blur'])
			this.field.addEventListener(name, () => this.#caret());
		this.field.addEventListener('scroll', () => { this.ghost.scrollTop = this.field.scrollTop; });
		const root = document.documentElement;
		this.field.addEventListener('focus', () => root.toggleAttribute('data-typing', matchMedia('(pointer: coarse)').matches));
		this.field.addEventListener('blur', () => root.removeAttribute('data-typing'));
		// On a phone the page moves when the keyboard goes; the press must land before that.
		by_id('send').addEventListener('mousedown', (event) => event.preventDefault());
		by_id('line').addEventListener('submit', (event) => { event.preventDefault(); this.send(); });
		store.on(['prompts', 'capabilities', 'role'], () => this.draw());
	}

	get text()
	{
		return this.field.value;
	}

	get slots()
	{
		return this.store.get('capabilities')?.suggestions?.slots ?? [];
	}

	// The slot word under the caret, while the line has the focus; or null.
	get slot()
	{
		if (document.activeElement !== this.field || this.field.selectionStart !== this.field.selectionEnd)
			return null;
		return slot_at(this.text, this.field.selectionStart, this.slots);
	}

	focus()
	{
		this.field.focus();
		this.field.setSelectionRange(this.text.length, this.text.length);
		this.#caret();
	}

	// Puts words in without sending them.
	fill(text, caret = text.length)
	{
		this.untouched = false;
		this.field.value = one_line(text);
		this.field.setSelectionRange(caret, caret);
		this.#keep();
		this.draw();
	}

	// The words on screen come in by themselves until someone touches the line; a kept draft wins.
	adopt(text)
	{
		if (!this.untouched)
			return;
		const draft = kept_in_tab.get(`draft.${this.store.get('session_id')}`);
		this.field.value = draft ?? text;
		if (draft)
			this.untouched = false;
		this.#caret();
	}

	send(mode_name)
	{
		const text = this.text.trim();
		if (!text) {
			this.problem('There are no words in the line.');
			return;
		}
		this.problem('');
		this.history_at = null;
		if (matchMedia('(pointer: coarse)').matches)
			this.field.blur();
		this.hooks.send(text, mode_name ?? this.modes.chosen?.name ?? 'switch');
	}

	problem(words)
	{
		const node = by_id('line-problem');
		node.hidden = !words;
		set_text(node, words);
		if (words)
			this.hooks.said(words);
	}

	swap(slot, word, send)
	{
		const text = this.text.slice(0, slot.start) + word + this.text.slice(slot.end);
		this.field.focus();
		this.fill(text, slot.start + word.length);
		if (send)
			this.send();
	}

	draw()
	{
		const { prompts } = this.session() ?? {};
		const shown = prompts?.shown;
		const { slot } = this;
		const runs = shown ? diff_words(shown.text, this.text) : [{ text: this.text, changed: false }];
		redraw(this.ghost, JSON.stringify([runs, slot?.start, slot?.word]), () => mark_runs(runs, slot));
		const text = this.text.trim();
		const same = prompts?.list.findLast((prompt) => prompt.revision && prompt.text === text && !is_lost(prompt));
		const revision = same?.revision ?? prompts?.next_revision ?? 1;
		const tag = by_id('line-letter');
		tag.dataset.hue = hue(revision);
		set_text(tag, letter(revision));
		tag.classList.toggle('hollow', revision !== prompts?.shown_revision);
		this.#count();
		this.#role();
	}

	#role()
	{
		const watching = ['view', 'viewer'].includes(this.store.get('role'));
		this.field.disabled = watching;
		by_id('send').disabled = watching;
		this.field.placeholder = watching ? 'You are watching. Someone else steers this stream.' : 'Say what it should show';
	}

	#count()
	{
		const most = this.store.get('capabilities')?.prompt?.max_bytes;
		const bytes = byte_length(this.text);
		const node = by_id('count');
		node.hidden = !most || bytes < most * COUNT_FROM;
		node.classList.toggle('over', bytes > most);
		set_text(node, `${bytes} of ${most} bytes`);
	}

	#typed()
	{
		const caret = this.field.selectionStart;
		const clean = one_line(this.text);
		if (clean !== this.text) {
			this.field.value = clean;
			this.field.setSelectionRange(caret, caret);
		}
		this.untouched = false;
		this.history_at = null;
		this.problem('');
		this.#keep();
		this.draw();
		this.hooks.moved();
	}

	#keep()
	{
		kept_in_tab.set(`draft.${this.store.get('session_id')}`, this.text);
	}

	#caret()
	{
		this.draw();
		this.hooks.moved();
	}

	#key(event)
	{
		if (event.isComposing || event.keyCode === 229)
			return;
		if (event.key === 'Enter') {
			event.preventDefault();
			this.send(event.ctrlKey || event.metaKey ? 'cut' : undefined);
		} else if (event.altKey && (event.key === 'ArrowUp' || event.key === 'ArrowDown')) {
			event.preventDefault();
			const step = event.key === 'ArrowUp' ? -1 : 1;
			event.shiftKey ? this.#turn_word(step) : this.#history(step);
		}
	}

	// Another word of the slot the caret is in.
	#turn_word(step)
	{
		const { slot } = this;
		if (!slot)
			return;
		const words = slot.slot.words;
		const at = words.findIndex((word) => word.toLocaleLowerCase() === slot.word.toLocaleLowerCase());
		this.swap(slot, words[(at + step + words.length) % words.length], false);
	}

	#history(step)
	{
		const texts = [];
		for (const prompt of this.session()?.prompts.list ?? [])
			if (texts[texts.length - 1] !== prompt.text)
				texts.push(prompt.text);
		if (!texts.length)
			return;
		const from = this.history_at ?? texts.length - (texts[texts.length - 1] === this.text ? 1 : 0);
		const at = Math.min(Math.max(from + step, 0), texts.length - 1);
		this.fill(texts[at]);
		this.history_at = at;
	}
}

// The copy of the text with its marks: <b> what changed, <u> the word that can be turned (in one piece).
function mark_runs(runs, slot)
{
	const nodes = [];
	let at = 0;
	for (const { text, changed } of runs) {
		const end = at + text.length;
		const [from, to] = slot ? [slot.start, slot.end] : [Infinity, Infinity];
		const plain = (a, b) => b > a && nodes.push(element(changed ? 'b' : 'span', { text: text.slice(a - at, b - at) }));
		plain(at, Math.min(end, from));
		if (from >= at && from < end)
			nodes.push(element('u', { text: runs.map((run) => run.text).join('').slice(from, to) }));
		plain(Math.max(at, to), end);
		at = end;
	}
	// A line that ends in a space must be as wide as its text field.
	nodes.push(document.createTextNode('\u200b'));
	return nodes;
}
