// SPDX-License-Identifier: Apache-2.0
// The Measure panel: one headline (from Enter to this screen), the six parts it consists of, frames a
// second, what a chunk costs, buffer and drops. Refreshed once a second, and only while it is open;
// scales are fixed, so nothing jumps. It measures nothing itself.

import { by_id, element, redraw, set_text } from './dom.js';
import { delay_parts } from './prompts.js';
import { Recent, quantile } from './stats.js';

const REFRESH_MS = 1000;
const KEPT_DELAYS = 20;
const SPARK_POINTS = 24;
const SURE_MS = 5;
const THIN_BUFFER_MS = 20;
const STAGES = [['condition', 'words'], ['dit', 'denoise'], ['vae', 'decode'], ['encode', 'encode']];
const WORDS = { accepted: 'accepted', generated: 'generated', encoded: 'encoded', travelled: 'travelled', shown: 'shown' };

const number = (value, digits = 1) => (Number.isFinite(value) ? value.toFixed(digits) : '–');
const s2 = (ms) => number(ms / 1000, 2);
const stage_ms = (timings, name) => timings[`${name}_us`] / 1000;
const cost_ms = ({ timings }) => STAGES.reduce((sum, [name]) => sum + stage_ms(timings, name), 0);

function spark_path(values, nominal)
{
	// 0.75x to 1.25x of nominal, clamped.
	return values.map((value, i) => {
		const y = Math.min(1, Math.max(0, (value / nominal - .75) / .5));
		return `${i ? 'L' : 'M'}${(i / (SPARK_POINTS - 1) * 100).toFixed(1)} ${(18 - y * 16).toFixed(1)}`;
	}).join(' ');
}

function figure(key, label)
{
	const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
	svg.setAttribute('class', 'spark');
	svg.setAttribute('viewBox', '0 0 100 20');
	svg.setAttribute('preserveAspectRatio', 'none');
	svg.setAttribute('aria-hidden', 'true');
	svg.append(document.createElementNS('http://www.w3.org/2000/svg', 'path'));
	return element('div', { 'data-figure': key }, element('div', { class: 'n', text: '–' }), element('div', { class: 'l', text: label }), svg);
}

const fact = (key, label) => element('div', { 'data-fact': key }, element('b', { text: '–' }), element('span', { text: label }));

function skeleton()
{
	return [
		element('div', {},
			element('div', { class: 'big' },
				element('div', { class: 'n' }, element('span', { id: 'm-last', text: '–' }), element('small', { text: 's' })),
				element('p', {}, 'from Enter to your screen', element('br'), element('span', { class: 'mono', id: 'm-quantiles', text: 'send a prompt to measure it' }))),
			element('div', { class: 'dots', id: 'm-dots', 'aria-hidden': 'true' })),
		element('div', { class: 'gantt', id: 'm-parts' }),
		element('div', { class: 'tri' }, figure('generated', 'fps generated'), figure('encoded', 'arrived'), figure('shown', 'shown here')),
		element('div', { id: 'm-cost' }, element('h2', {}, 'A chunk costs ', element('span', { class: 'mono', id: 'm-cost-text' })),
			element('div', { class: 'cost', id: 'm-cost-bars', 'aria-hidden': 'true' }),
			element('div', { class: 'key' }, ...STAGES.map(([name, words]) => element('span', { 'data-part': name }, element('i'), words)))),
		element('div', { class: 'facts' }, fact('buffer', 'buffer'), fact('dropped', 'dropped'), fact('rate', 'VP9'), fact('decode', 'decoding'), fact('path', 'player'), fact('offset', 'round trip')),
	];
}

// One chunk, its stages from the foot up. Higher than the scale is drawn as high as the scale; over budget
// it wears a cap.
function cost_column(chunk, budget_ms, scale_ms)
{
	const all_ms = Math.max(cost_ms(chunk), scale_ms);
	const bars = STAGES.map(([name]) => {
		const bar = element('i', { 'data-part': name });
		bar.style.setProperty('--part', String(stage_ms(chunk.timings, name) / all_ms));
		return bar;
	});
	return element('span', { class: cost_ms(chunk) > budget_ms ? 'c over' : 'c' }, ...bars);
}

class Panel
{
	constructor(session, store)
	{
		Object.assign(this, { session, store });
		this.sparks = { generated: new Recent(SPARK_POINTS), encoded: new Recent(SPARK_POINTS), shown: new Recent(SPARK_POINTS) };
		this.drops = new Recent(10);
		this.node = by_id('panel-measure');
		this.node.replaceChildren(...skeleton());
	}

	refresh()
	{
		const now = this.session();
		const config = this.store.get('config');
		if (!now || !config)
			return;
		const rates = now.frame_rates();
		for (const name of Object.keys(this.sparks))
			if (Number.isFinite(rates[name]))
				this.sparks[name].add(rates[name]);
		this.drops.add((now.report?.late_frames ?? 0) + now.player.dropped_frames + now.server_dropped);
		if (this.node.offsetParent === null)
			return;
		this.#headline(now);
		this.#rates(rates, config.fps_num / config.fps_den);
		this.#cost(now);
		this.#facts(now);
	}

	#headline(now)
	{
		const seen = now.prompts.list.filter((prompt) => prompt.delay_ms !== undefined).slice(-KEPT_DELAYS);
		const last = seen[seen.length - 1];
		if (!last)
			return;
		const delays = seen.map((prompt) => prompt.delay_ms);
		set_text(by_id('m-last'), s2(last.delay_ms));
		set_text(by_id('m-quantiles'), `p50 ${s2(quantile(delays, .5))} · p95 ${s2(quantile(delays, .95))} · last ${delays.length}`);
		const parts = delay_parts(last, (us) => now.socket.to_page_ms(us));
		this.#dots(delays, parts);
		const doubt = now.socket.offset.doubt_ms > SURE_MS ? 'about ' : '';
		redraw(by_id('m-parts'), `${last.event_id} ${doubt} ${!!last.timings}`, () => (parts ?? []).flatMap((part) => this.#part(part, last, doubt)));
	}

	#part({ name, start_ms, ms }, prompt, doubt)
	{
		const bar = element('i', { 'data-part': name });
		bar.style.left = `${start_ms / prompt.delay_ms * 100}%`;
		bar.style.width = `${ms / prompt.delay_ms * 100}%`;
		const local = name === 'shown';
		return [
			element('span', { text: name === 'waited' ? `waited for ${prompt.chunk}` : WORDS[name] }),
			element('span', { class: 't' }, bar),
			element('span', { class: 'v', text: `${local ? '' : doubt ? '≈' : ''}${Math.round(ms)}${name === 'accepted' ? ' ms' : ''}` }),
		];
	}

	// The last delays on a fixed axis, and the least a prompt could take if it just caught its chunk.
	#dots(delays, parts)
	{
		const worst = Math.max(...delays) / 1000;
		const axis_s = worst <= 2 ? 2 : Math.ceil(worst);
		const at = (ms) => `${Math.min(100, ms / 1000 / axis_s * 100)}%`;
		const least_ms = parts ? parts.filter(({ name }) => name !== 'waited' && name !== 'accepted').reduce((sum, { ms }) => sum + ms, 0) : NaN;
		redraw(by_id('m-dots'), JSON.stringify([delays, least_ms]), () => {
			const place = (node, where) => { node.style.left = where; return node; };
			const marks = delays.map((ms, i) => place(element('i', { class: i === delays.length - 1 ? 'last' : '' }), at(ms)));
			const end = element('span', { text: `${axis_s} s` });
			end.style.right = '0';
			const nodes = [element('div', { class: 'ax' }), ...marks, place(element('span', { text: '0' }), '0'), end];
			if (least_ms > 0) {
				const floor = element('div', { class: 'fl' });
				floor.style.width = at(least_ms);
				nodes.splice(1, 0, floor);
				nodes.push(place(element('span', { text: `least ${s2(least_ms)}` }), `calc(${at(least_ms)} - 4ch)`));
			}
			return nodes;
		});
	}

	#rates(rates, nominal)
	{
		const slow = {
			generated: rates.generated < nominal * .98 && 'below real time',
			// Held against the nominal rate too: chunks that come late come in a hurry.
			shown: rates.shown < Math.min(rates.encoded, nominal) * .95 && 'slow screen',
		};
		const labels = { generated: 'fps generated', encoded: 'arrived', shown: 'shown here' };
		for (const [name, recent] of Object.entries(this.sparks)) {
			const node = this.node.querySelector(`[data-figure=${name}]`);
			set_text(node.querySelector('.n'), number(rates[name]));
			set_text(node.querySelector('.l'), slow[name] || labels[name]);
			node.classList.toggle('off', !!slow[name]);
			node.querySelector('path').setAttribute('d', spark_path(recent.values, nominal));
		}
	}

	#cost(now)
	{
		const chunks = now.chunks.values;
		by_id('m-cost').hidden = !chunks.length || !now.report;
		if (!chunks.length || !now.report)
			return;
		const budget_ms = now.report.frame.chunk_ms;
		const scale_ms = budget_ms * 1.5;
		set_text(by_id('m-cost-text'), `${Math.round(cost_ms(chunks[chunks.length - 1]))} of ${Math.round(budget_ms)} ms`);
		redraw(by_id('m-cost-bars'), chunks[chunks.length - 1].chunk, () => {
			const line = element('span', { class: 'bud' });
			line.style.setProperty('--part', String(budget_ms / scale_ms));
			return [...chunks.map((chunk) => cost_column(chunk, budget_ms, scale_ms)), line];
		});
	}

	#fact(name, text, warning)
	{
		const node = this.node.querySelector(`[data-fact=${name}]`);
		set_text(node.querySelector('b'), text);
		node.classList.toggle('off', !!warning);
		node.label ??= node.querySelector('span').textContent;
		set_text(node.querySelector('span'), warning ? `${node.label} ${warning}` : node.label);
	}

	#facts(now)
	{
		const { report, chunks } = now;
		const drops = this.drops.values;
		if (report) {
			this.#fact('buffer', `${Math.round(report.lead_ms)} ms`, report.lead_ms < THIN_BUFFER_MS && report.stretch > 1 && 'thin');
			this.#fact('decode', Number.isFinite(report.decode_ms) ? `${number(report.decode_ms)} ms` : '–');
		}
		this.#fact('dropped', String(drops[drops.length - 1]), drops[drops.length - 1] > drops[0] && 'now');
		const recent = chunks.values.slice(-8);
		const bits = recent.reduce((sum, chunk) => sum + chunk.bytes * 8, 0);
		const media_ms = recent.length * (report?.frame.chunk_ms ?? NaN);
		this.#fact('rate', media_ms > 0 ? `${number(bits / media_ms / 1000, 2)} Mb/s` : '–');
		this.#fact('path', { webcodecs: 'direct', mse: 'buffered' }[now.player.path] ?? '–');
		this.#fact('offset', now.socket.offset.known ? `${number(2 * now.socket.offset.doubt_ms)} ms` : '–');
	}
}

export function start_measure({ store, session })
{
	const panel = new Panel(session, store);
	setInterval(() => panel.refresh(), REFRESH_MS);
	return { refresh: () => panel.refresh() };
}
