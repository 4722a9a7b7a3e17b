// SPDX-License-Identifier: Apache-2.0
// The bar: name, state in one word, who watches, link, rail, theme.

import { by_id, set_icon, set_text } from './dom.js';
import { pill_words } from './states.js';
import { kept_here } from './store.js';

const THEMES = ['system', 'dark', 'light'];
const ROLES = { view: 'you watch', viewer: 'you watch' };

export async function copy_text(text, button)
{
	try {
		await navigator.clipboard.writeText(text);
	} catch {
		// Clipboard access needs a secure page; a selected field works everywhere.
		const field = document.createElement('textarea');
		field.value = text;
		document.body.append(field);
		field.select();
		document.execCommand('copy');
		field.remove();
	}
	button?.classList.add('done');
	setTimeout(() => button?.classList.remove('done'), 1500);
}

function theme_button()
{
	const button = by_id('theme');
	const root = document.documentElement;
	const show = () => {
		const theme = root.dataset.theme ?? 'system';
		set_icon(button, `theme-${theme}`);
		button.setAttribute('aria-label', `Theme: ${theme === 'system' ? 'as the system' : theme}`);
		button.title = button.getAttribute('aria-label');
	};
	button.onclick = () => {
		const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? 'system') + 1) % THEMES.length];
		if (next === 'system')
			delete root.dataset.theme;
		else
			root.dataset.theme = next;
		kept_here.set('theme', next);
		show();
	};
	show();
}

export function start_bar({ store, announcer })
{
	theme_button();
	by_id('copy-link').onclick = () => {
		copy_text(location.href, by_id('copy-link'));
		announcer.say('link', 'Link copied.');
	};
	store.on(['state', 'queue_position'], (s) => {
		const [text, look] = pill_words(s.state, s);
		by_id('pill').dataset.look = look;
		set_text(by_id('pill').querySelector('span'), text);
	});
	store.on(['name', 'session_id'], (s) => {
		set_text(by_id('session-name'), s.name);
		by_id('session-name').title = s.session_id ?? '';
	});
	store.on(['viewers'], (s) => {
		by_id('viewers').hidden = !(s.viewers > 0);
		set_text(by_id('viewers').querySelector('.mono'), String(s.viewers));
	});
	store.on(['role'], (s) => set_text(by_id('role'), s.role ? ROLES[s.role] ?? 'you steer' : ''));
}

// The rail at the right (on a phone: the part between film and line), with two panels.
export function start_rail()
{
	const root = document.documentElement;
	const names = ['prompts', 'measure'];
	const phone = matchMedia('(max-width: 680px)');
	let panel = 'measure';
	const show = () => {
		const open = root.hasAttribute('data-rail') || phone.matches;
		for (const name of names) {
			by_id(`panel-${name}`).hidden = name !== panel;
			by_id(`tab-${name}`).setAttribute('aria-selected', String(name === panel));
			by_id(`open-${name}`).setAttribute('aria-pressed', String(open && name === panel));
		}
		by_id('nav-steer').setAttribute('aria-current', String(panel === 'prompts'));
		by_id('nav-measure').setAttribute('aria-current', String(panel === 'measure'));
	};
	const choose = (name) => { panel = name; show(); };
	const toggle = (name) => {
		const closing = root.hasAttribute('data-rail') && panel === name;
		root.toggleAttribute('data-rail', !closing);
		kept_here.set('rail', closing ? '' : name);
		choose(name);
	};
	for (const name of names) {
		by_id(`tab-${name}`).onclick = () => choose(name);
		by_id(`open-${name}`).onclick = () => toggle(name);
	}
	by_id('close-rail').onclick = () => toggle(panel);
	by_id('nav-steer').onclick = () => choose('prompts');
	by_id('nav-measure').onclick = () => choose('measure');
	phone.addEventListener('change', () => choose(phone.matches ? 'prompts' : panel));
	const wanted = new URLSearchParams(location.search).has('hud') ? 'measure' : kept_here.get('rail');
	if (phone.matches)
		panel = 'prompts';
	else if (names.includes(wanted))
		toggle(wanted);
	show();
	return { toggle: (name) => (phone.matches ? choose(name) : toggle(name)) };
}
