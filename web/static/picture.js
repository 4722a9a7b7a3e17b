// SPDX-License-Identifier: Apache-2.0
// Over the picture: buttons that fade when all is quiet, the metronome (one cell per frame of the chunk
// on screen), and the slate that says which words the picture has just turned to.

import { by_id, element, redraw, set_icon, set_text } from './dom.js';
import { hue, letter } from './words.js';
import { kept_here } from './store.js';

const CHROME_MS = { mouse: 2600, touch: 4000 };
const SLATE_MS = 4000;
const SLATE_FADE_MS = 600;
const DICE_MS = 3000;
const SEED_LIMIT = 2 ** 53;

function start_chrome(pic, store)
{
	let timer;
	const hide = () => {
		if (store.get('session_state') !== 'paused' && !pic.querySelector('.chrome :focus-visible'))
			pic.dataset.chrome = 'off';
	};
	const show = (event) => {
		pic.dataset.chrome = 'on';
		clearTimeout(timer);
		timer = setTimeout(hide, event?.pointerType === 'touch' ? CHROME_MS.touch : CHROME_MS.mouse);
	};
	for (const name of ['pointermove', 'pointerdown', 'focusin'])
		pic.addEventListener(name, show);
	addEventListener('keydown', (event) => event.target === document.body && show(event));
	store.on(['session_state'], show);
}

export function random_seed()
{
	const parts = crypto.getRandomValues(new Uint32Array(2));
	return ((parts[0] & 0x1fffff) * 2 ** 32 + parts[1]) % SEED_LIMIT;
}

// The dice asks once: a new seed ends the film on every screen.
function start_dice(session)
{
	const dice = by_id('dice');
	const question = dice.querySelector('.ask');
	let timer;
	const settle = () => { dice.classList.remove('sure'); question.hidden = true; clearTimeout(timer); };
	dice.onclick = () => {
		if (dice.classList.contains('sure')) {
			settle();
			session().control('reset', { seed: random_seed() });
			return;
		}
		dice.classList.add('sure');
		question.hidden = false;
		timer = setTimeout(settle, DICE_MS);
	};
}

function start_pixel(pic)
{
	const button = by_id('pixel');
	const show = () => {
		const on = pic.hasAttribute('data-pixel');
		set_icon(button, on ? 'pixel' : 'smooth');
		set_text(button.querySelector('span'), on ? 'Pixel' : 'Smooth');
	};
	button.onclick = () => {
		kept_here.set('pixel', pic.toggleAttribute('data-pixel') ? 'on' : '');
		show();
	};
	pic.toggleAttribute('data-pixel', kept_here.get('pixel') === 'on');
	show();
}

function draw_metronome(metro, frame)
{
	redraw(metro, frame.frames, () => Array.from({ length: frame.frames }, () => element('i')));
	for (let i = 0; i < frame.frames; i++)
		metro.children[i].className = i < frame.frame ? 'on' : i === frame.frame ? 'cur' : '';
}

class Slate
{
	constructor(node)
	{
		this.node = node;
	}

	show(prompt, frame)
	{
		const { node } = this;
		const tag = node.querySelector('.tag');
		tag.dataset.hue = hue(frame.revision);
		set_text(tag, letter(frame.revision));
		set_text(node.querySelector('.words'), prompt.text);
		set_text(node.querySelector('small'), prompt.delay_ms !== undefined
			? `Seen ${(prompt.delay_ms / 1000).toFixed(2)} s after Enter`
			: prompt.chunk === 0 ? 'The first words of this film' : `Turned at chunk ${prompt.chunk ?? frame.chunk}`);
		node.classList.remove('going');
		node.hidden = false;
		clearTimeout(this.timer);
		this.timer = setTimeout(() => this.close(), SLATE_MS);
	}

	close()
	{
		if (this.node.hidden)
			return false;
		this.node.classList.add('going');
		clearTimeout(this.timer);
		this.timer = setTimeout(() => { this.node.hidden = true; }, SLATE_FADE_MS);
		return true;
	}
}

// session: a function, because the session comes after the page. Returns what others may call.
export function start_picture({ store, session, act, copy })
{
	const pic = by_id('pic');
	const root = document.documentElement;
	start_chrome(pic, store);
	start_dice(session);
	start_pixel(pic);
	// The whole page goes full screen, so that the line is there when someone types /.
	const toggle_full = () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen?.())?.catch(() => {});
	document.addEventListener('fullscreenchange', () => root.toggleAttribute('data-full', !!document.fullscreenElement));
	by_id('pause').onclick = () => act('pause');
	by_id('step').onclick = () => act('step');
	by_id('scene').onclick = () => act('scene');
	by_id('seed').onclick = () => copy(String(store.get('seed')), by_id('seed'));
	by_id('full').onclick = toggle_full;
	by_id('full').hidden = !document.fullscreenEnabled;
	pic.addEventListener('dblclick', (event) => event.target.closest('.chrome, .foot, .full') || toggle_full());
	const slate = new Slate(by_id('slate'));

	store.on(['seed'], (s) => set_text(by_id('seed-value'), s.seed === undefined ? '' : String(s.seed)));
	store.on(['session_state'], (s) => {
		const paused = s.session_state === 'paused';
		set_icon(by_id('pause'), paused ? 'play' : 'pause');
		by_id('pause').setAttribute('aria-label', paused ? 'Go on' : 'Pause');
	});
	store.on(['capabilities'], ({ capabilities }) => {
		by_id('scene').hidden = !capabilities?.modes.some((mode) => mode.name === 'cut');
	});
	store.on(['config'], ({ config }) => {
		if (!config)
			return;
		root.style.setProperty('--aspect', `${config.width} / ${config.height}`);
		root.style.setProperty('--ratio', String(config.width / config.height));
		root.style.setProperty('--native', `${config.width / devicePixelRatio}px`);
	});
	return {
		shown: (frame) => draw_metronome(by_id('metro'), frame),
		turned: (prompt, frame) => {
			const words = prompt?.text ?? '';
			for (const surface of [by_id('canvas'), by_id('video')])
				surface.setAttribute('aria-label', words ? `Live picture: ${words}` : 'Live picture');
			if (prompt)
				slate.show(prompt, frame);
		},
		close_slate: () => slate.close(),
		toggle_full,
	};
}
