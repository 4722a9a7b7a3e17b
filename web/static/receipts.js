// SPDX-License-Identifier: Apache-2.0
// Receipts: under the line for the newest own prompt, and the list of all prompts, newest first. They
// say what was seen on this screen, not what was sent.

import { by_id, element, icon, redraw } from './dom.js';
import { median } from './stats.js';
import { is_lost, is_open } from './prompts.js';
import { diff_words, hue, letter } from './words.js';

const FOLD_MS = 4000;
const LIST_MOST = 40;
const seconds = (ms) => `${(ms / 1000).toFixed(2)} s`;
const about = (ms) => `${(ms / 1000).toFixed(1)} s`;

// How long until a prompt sent now would be seen: the median of what the last ones took; before the
// first one, a chunk and a half.
export function expected_delay_ms(session)
{
	const seen = session.prompts.list.filter((prompt) => prompt.delay_ms !== undefined).slice(-20).map((prompt) => prompt.delay_ms);
	if (seen.length)
		return median(seen);
	return session.report ? 1.5 * session.report.frame.chunk_ms : NaN;
}

const item = (name, ...children) => element('li', { class: name }, element('i'), element('span', {}, ...children));
const mono = (text) => element('span', { class: 'mono', text });

const seen_item = (prompt, ...after) => item('seen', 'seen ', element('b', { class: 'mono', text: seconds(prompt.delay_ms) }), ...after);
const take_back_item = (undo) => element('li', { class: 'take-back' }, element('button', {
	class: 'undo', type: 'button', 'aria-label': 'Take it back', title: 'Take it back (Esc)', onclick: undo,
}, icon('close')));

function ending(prompt)
{
	if (prompt.state === 'rejected')
		return item('bad', prompt.problem_words);
	if (prompt.state === 'superseded')
		return item('gone', prompt.by_revision ? `replaced by ${letter(prompt.by_revision)}` : 'replaced by later words');
	return item('gone', 'taken back');
}

// The short form for the list: accepted, chunk, seen.
function short_stations(prompt)
{
	const rank = ['asked', 'accepted', 'begun', 'arrived', 'seen'].indexOf(prompt.state);
	const look = (at) => (rank >= at ? 'done' : rank === at - 1 ? 'cur' : '');
	return [
		item(look(1), 'accepted'),
		item(rank >= 3 ? 'done' : rank >= 1 ? 'cur' : '', 'chunk ', mono(prompt.chunk === undefined ? '…' : String(prompt.chunk))),
		item(rank === 3 ? 'cur' : look(4), 'seen'),
	];
}

// The five stations of a prompt. `folded`: only the last one, some seconds after it was seen.
function stations(prompt, { folded, expected_ms, undo })
{
	const rank = ['asked', 'accepted', 'begun', 'arrived', 'seen'].indexOf(prompt.state);
	if (rank < 0)
		return [ending(prompt)];
	if (folded)
		return [seen_item(prompt, ' after Enter')];
	const look = (at) => (rank >= at ? 'done' : rank === at - 1 ? 'cur' : '');
	const chunk = prompt.chunk === undefined ? 'a chunk' : String(prompt.chunk);
	const accepted_ms = prompt.accepted_ms - prompt.asked_ms;
	return [
		item('done', 'asked'),
		item(look(1), 'accepted', ...(rank >= 1 && accepted_ms >= 0 ? [' ', mono(`${Math.round(accepted_ms)} ms`)] : [])),
		item(look(2), rank === 1 ? 'waits for chunk ' : 'chunk ', mono(chunk)),
		item(look(3), rank >= 3 ? 'arrived' : 'arrives'),
		rank === 4
			? seen_item(prompt)
			: item(look(4), 'seen', ...(expected_ms > 0 ? [' in about ', mono(about(expected_ms))] : [])),
		...(undo && rank === 1 ? [take_back_item(undo)] : []),
	];
}

function row_words(prompt, before, use)
{
	const runs = before ? diff_words(before.text, prompt.text) : [{ text: prompt.text, changed: true }];
	return element('button', {
		class: 'words', type: 'button', dir: 'auto', title: 'Click: into the line. Double click: send again.',
		onclick: () => use(prompt, false), ondblclick: () => use(prompt, true),
	}, ...runs.map((run) => element(run.changed ? 'b' : 'span', { text: run.text })));
}

const HOW = { switch: 'drifted', recache: 'turned', cut: 'new scene' };

function row_note(prompt, shown_revision)
{
	const turned = prompt.chunk === 0 ? 'the first words' : `${HOW[prompt.mode] ?? prompt.mode} at chunk ${prompt.chunk}`;
	const how = prompt.chunk === undefined ? '' : turned;
	if (prompt.revision === shown_revision)
		return `On your screen now${how ? ` · ${how}` : ''}`;
	if (prompt.state === 'past' || prompt.state === 'seen')
		return how[0] ? how[0].toUpperCase() + how.slice(1) : '';
	return '';
}

function list_row(prompt, before, { shown_revision, expected_ms, use })
{
	const waiting = is_open(prompt);
	const lost = is_lost(prompt);
	const reached = prompt.revision === shown_revision || prompt.state === 'seen' || prompt.state === 'past';
	const number = prompt.delay_ms !== undefined ? seconds(prompt.delay_ms) : waiting && expected_ms > 0 ? `≈${about(expected_ms)}` : '';
	return element('li', { class: lost ? 'gone' : '' },
		element('span', {
			class: reached ? 'tag' : 'tag hollow', 'data-hue': prompt.revision ? hue(prompt.revision) : null,
			text: prompt.revision ? letter(prompt.revision) : '·',
		}),
		row_words(prompt, before, use),
		element('span', { class: waiting ? 'n soon' : 'n', text: number }),
		element('small', {}, ...(waiting || lost
			? [element('ol', { class: 'rcpt' }, ...(lost ? [ending(prompt)] : short_stations(prompt)))]
			: [row_note(prompt, shown_revision)])));
}

// use(prompt, send): a row was chosen.
export function start_receipts({ store, session, use, undo })
{
	const receipt = by_id('receipt');
	const list = by_id('prompt-list');
	let fold_timer;

	const draw = () => {
		const now = session();
		if (!now)
			return;
		const expected_ms = expected_delay_ms(now);
		// What was rejected is said under the line, where the words still stand.
		const mine = now.prompts.newest_mine;
		const prompt = mine?.state === 'rejected' ? undefined : mine;
		const seen_for_ms = prompt?.seen_ms === undefined ? 0 : performance.timeOrigin + performance.now() - prompt.seen_ms;
		const folded = prompt?.state === 'seen' && seen_for_ms > FOLD_MS;
		if (prompt?.state === 'seen' && !folded) {
			clearTimeout(fold_timer);
			fold_timer = setTimeout(draw, FOLD_MS - seen_for_ms + 20);
		}
		redraw(receipt, prompt && JSON.stringify([prompt.event_id, prompt.state, prompt.chunk, prompt.by_revision, folded]),
			() => (prompt ? stations(prompt, { folded, expected_ms, undo }) : []));
		const { list: prompts, shown_revision } = now.prompts;
		const first = Math.max(0, prompts.length - LIST_MOST);
		const key = prompts.slice(first).map((p) => [p.revision, p.event_id, p.state, p.chunk, p.delay_ms, p.text, p.revision === shown_revision]);
		redraw(list, JSON.stringify(key), () => {
			const before = (i) => prompts.slice(0, i).findLast((older) => !is_lost(older));
			const rows = prompts.slice(first).map((p, i) => list_row(p, before(first + i), { shown_revision, expected_ms, use }));
			return rows.length ? rows.reverse() : [element('li', { class: 'empty', text: 'Every prompt of this stream is listed here.' })];
		});
	};
	store.on(['prompts'], draw);
	return { draw };
}
