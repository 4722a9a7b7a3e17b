// SPDX-License-Identifier: Apache-2.0
// What the stage says: messages at the foot of the picture or in its place, from states.js. The last
// frame always stays; a foot message never covers the middle.

import { by_id, element, measured, redraw } from './dom.js';
import { announcement, page_state, state_words } from './states.js';

const PROGRESS_CELLS = 12;      // of the loading bar only; nothing of the stream

function cells(share)
{
	const filled = Math.floor(share * PROGRESS_CELLS);
	return element('div', { class: 'prog', 'aria-hidden': 'true' }, ...Array.from({ length: PROGRESS_CELLS },
		(_, i) => element('i', { class: i < filled ? 'on' : i === filled ? 'cur' : '' })));
}

function places(position)
{
	return element('div', { class: 'prog places', 'aria-hidden': 'true' },
		...Array.from({ length: Math.min(position, 8) }, (_, i) => element('i', { class: i === position - 1 ? 'cur' : '' })));
}

function actions(words, act)
{
	return words.actions && element('div', { class: 'act' }, ...words.actions.map(({ name, text, primary }) =>
		element('button', { type: 'button', class: primary ? 'btn pri' : 'btn', text, onclick: () => act(name) })));
}

const paragraphs = (lines) => lines.map((line) => element('p', {}, ...measured(line)));

function build_full(words, act)
{
	const { steps } = words;
	return [
		element('h2', { text: words.title }),
		typeof words.progress === 'number' ? cells(words.progress) : words.places ? places(words.places) : null,
		...paragraphs(words.lines.slice(0, 1)),
		steps && element('p', { class: 'steps' }, ...steps.names.map((name, i) => element(i === steps.at ? 'b' : 'span', { text: name }))),
		...paragraphs(words.lines.slice(1)),
		actions(words, act),
	].filter(Boolean);
}

const build_foot = (words, act) => [
	element('div', {}, element('h2', { text: words.title }), ...paragraphs(words.lines)),
	actions(words, act),
].filter(Boolean);

export function start_stage({ store, announcer, act })
{
	const pic = by_id('pic');
	const foot = by_id('foot');
	const full = by_id('full-message');
	let since = { name: '', ms: 0 };
	let delay_timer;
	let passing_timer;

	const draw = () => {
		const s = store.values;
		const name = page_state(s);
		store.set({ state: name });
		document.documentElement.dataset.state = name;
		document.documentElement.toggleAttribute('data-picture', !!s.has_picture);
		if (since.name !== name) {
			since = { name, ms: performance.now() };
			name === 'failed' || name === 'refused' ? announcer.alert(state_words(name, s).title) : announcer.say('state', announcement(name));
		}
		let words = state_words(name, s);
		if (words?.after_ms && performance.now() - since.ms < words.after_ms) {
			clearTimeout(delay_timer);
			delay_timer = setTimeout(draw, words.after_ms);
			words = null;
		}
		words ??= s.passing;
		pic.dataset.message = words?.where ?? '';
		pic.dataset.veil = words?.pale ? 'pale' : words?.dark && s.has_picture ? 'dark' : '';
		foot.hidden = words?.where !== 'foot';
		full.hidden = words?.where !== 'full';
		const key = JSON.stringify(words ?? null);
		if (!foot.hidden)
			redraw(foot, key, () => build_foot(words, act));
		if (!full.hidden) {
			full.classList.toggle('veil', !!s.has_picture);
			full.toggleAttribute('data-alarm', !!words.alarm);
			redraw(full, key, () => build_full(words, act));
		}
	};

	store.on(['session_state', 'reason', 'problem', 'socket_open', 'was_open', 'draining', 'tries', 'retry_in_s', 'loading', 'closed_kind', 'start_problem',
		'unsupported', 'has_picture', 'late', 'late_ms', 'queue_position', 'passing', 'seed'], draw);
	store.on(['passing'], ({ passing }) => {
		if (!passing)
			return;
		announcer.say('passing', passing.title);
		clearTimeout(passing_timer);
		passing_timer = setTimeout(() => store.set({ passing: null }), passing.for_ms);
	});
}
