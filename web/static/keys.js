// SPDX-License-Identifier: Apache-2.0
// Keys: one table that both acts and fills the sheet. Single keys work outside text fields, never while
// a composition is open or a modifier is down, and can be switched off (WCAG 2.1.4).

import { by_id, element } from './dom.js';
import { kept_here } from './store.js';

// [group, caps for the sheet, what it does, key to act on (null: acted on where it belongs), action]
const KEYS = [
	['Steer', ['/'], 'go to the prompt line', '/', 'line'],
	['Steer', ['↵'], 'send', null],
	['Steer', ['Ctrl', '↵'], 'send as a new scene (cut)', null],
	['Steer', ['Alt', '↑↓'], 'earlier, later prompts', null],
	['Steer', ['Alt', '⇧', '↑↓'], 'another word at the caret', null],
	['Steer', ['M'], 'the mode, arrows inside', 'm', 'mode'],
	['Steer', ['Esc'], 'leave the line, take back', null],
	['Time', ['K'], 'pause, go on', 'k', 'pause'],
	['Time', ['.'], 'one chunk, then pause', '.', 'step'],
	['Time', ['N'], 'new scene, same words', 'n', 'scene'],
	['Time', ['D'], 'new seed (twice)', 'd', 'dice'],
	['Picture and page', ['F'], 'full screen', 'f', 'full'],
	['Picture and page', ['X'], 'smooth or pixel', 'x', 'pixel'],
	['Picture and page', ['P'], 'prompts', 'p', 'prompts'],
	['Picture and page', ['H'], 'measurements', 'h', 'measure'],
	['Picture and page', ['?'], 'this sheet', '?', 'sheet'],
];

const in_text = (target) => target.closest?.('textarea, input, select, [contenteditable]');

function fill_sheet()
{
	const groups = [...new Set(KEYS.map(([group]) => group))];
	by_id('key-table').replaceChildren(...groups.map((group) => element('div', {},
		element('h3', { text: group }),
		element('dl', {}, ...KEYS.filter(([name]) => name === group).flatMap(([, caps, words]) => [
			element('dt', {}, ...caps.map((cap) => element('span', { class: 'kb', text: cap }))),
			element('dd', { text: words }),
		])))));
}

// actions: by the names of the table, and escape() for Esc outside the sheet.
export function start_keys(actions)
{
	const sheet = by_id('sheet');
	const single = by_id('single-keys');
	let on = kept_here.get('single-keys') !== 'off';
	const all = { ...actions, sheet: () => (sheet.open ? sheet.close() : sheet.showModal()) };
	fill_sheet();
	single.setAttribute('aria-checked', String(on));
	single.onclick = () => {
		on = !on;
		single.setAttribute('aria-checked', String(on));
		kept_here.set('single-keys', on ? '' : 'off');
	};
	by_id('open-sheet').onclick = all.sheet;
	by_id('close-sheet').onclick = () => sheet.close();
	sheet.addEventListener('click', (event) => event.target === sheet && sheet.close());

	addEventListener('keydown', (event) => {
		if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.altKey || event.metaKey)
			return;
		if (event.key === 'Escape') {
			if (!sheet.open)
				actions.escape(event);
			return;
		}
		if (!on || in_text(event.target) || (sheet.open && event.key !== '?'))
			return;
		const entry = KEYS.find(([, , , key]) => key !== null && key === event.key.toLowerCase());
		if (!entry || event.repeat)
			return;
		event.preventDefault();
		all[entry[4]]();
	});
}
