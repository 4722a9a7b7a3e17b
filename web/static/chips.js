// SPDX-License-Identifier: Apache-2.0
// Suggestions under the line, made by the model's manifest: whole sentences when the line is empty, other
// words for the slot under the caret, else short turns. A click applies and sends; with Alt it only applies.

import { by_id, element, icon, redraw } from './dom.js';

const MOST = { sentences: 4, turns: 6, words: 6 };
const pick = (list) => list[Math.floor(Math.random() * list.length)];

// The line with a turn: where the line already has words of the same slot ("at dawn" for "at night"), they
// are replaced; else the turn goes to the end, in place of one that stands there.
export function with_turn(text, turn, turns, slots = [])
{
	const folded = text.toLocaleLowerCase();
	const same = (word) => word.toLocaleLowerCase() === turn.toLocaleLowerCase();
	const slot = slots.find(({ words }) => words.some(same));
	const rivals = [...(slot?.words ?? [])].sort((a, b) => b.length - a.length);
	for (const word of rivals) {
		const at = folded.lastIndexOf(word.toLocaleLowerCase());
		if (at >= 0)
			return text.slice(0, at) + turn + text.slice(at + word.length);
	}
	let head = text.trim().replace(/[.,;\s]+$/, '');
	for (const old of turns)
		if (head.toLocaleLowerCase().endsWith(`, ${old.toLocaleLowerCase()}`))
			head = head.slice(0, -(old.length + 2));
	return head ? `${head}, ${turn}` : turn;
}

export function start_chips({ store, line, modes })
{
	const row = by_id('chips');
	// A press must not take the focus (and with it the slot) away from the line.
	row.addEventListener('mousedown', (event) => event.preventDefault());

	const chip = (text, apply) => element('button', {
		class: 'chip', type: 'button', text, title: 'Alt + click: only put it in the line',
		onclick: (event) => { apply(!event.altKey); draw(); },
	});

	const plain = ({ sentences = [], turns = [], slots = [] }) => {
		const put = (text) => (send) => { line.fill(text); if (send) line.send(); };
		if (!line.text.trim() || !turns.length)
			return sentences.slice(0, MOST.sentences).map((text) => chip(text, put(text)));
		return turns.slice(0, MOST.turns).map((turn) => chip(turn, (send) => put(with_turn(line.text, turn, turns, slots))(send)));
	};

	const others = (slot) => [
		element('span', { class: 'inst' }, 'instead of ', element('em', { text: slot.word })),
		...slot.slot.words.filter((word) => word.toLocaleLowerCase() !== slot.word.toLocaleLowerCase()).slice(0, MOST.words)
			.map((word) => chip(word, (send) => line.swap(line.slot ?? slot, word, send))),
	];

	function draw()
	{
		const suggestions = store.get('capabilities')?.suggestions ?? {};
		const { slot } = line;
		const key = JSON.stringify([suggestions, slot?.word, !!line.text.trim(), modes.chosen?.name]);
		redraw(row, key, () => {
			const dice = suggestions.sentences?.length && element('button', {
				class: 'chip dice', type: 'button', 'aria-label': 'A random sentence', title: 'A random sentence (Alt + click: only put it in the line)',
				onclick: (event) => { line.fill(pick(suggestions.sentences)); if (!event.altKey) line.send(); draw(); },
			}, icon('dice'));
			const chips = slot ? others(slot) : plain(suggestions);
			return [modes.chip(), element('div', { class: 'some' }, ...chips), dice].filter(Boolean);
		});
	}

	store.on(['capabilities', 'mode', 'prompts'], draw);
	return { draw };
}
