// SPDX-License-Identifier: Apache-2.0
// A few helpers for building the page by hand. Text always goes in as text, never as markup.

export const by_id = (id) => document.getElementById(id);

// element('p', {class: 'x', text: 'words', onclick: fn}, child, ...). Unknown names become attributes.
export function element(name, options = {}, ...children)
{
	const node = document.createElement(name);
	for (const [key, value] of Object.entries(options)) {
		if (value === undefined || value === null || value === false)
			continue;
		if (key === 'text')
			node.textContent = value;
		else if (key.startsWith('on'))
			node.addEventListener(key.slice(2), value);
		else
			node.setAttribute(key, value === true ? '' : value);
	}
	node.append(...children.filter((child) => child !== null && child !== undefined));
	return node;
}

function svg(id, class_name)
{
	const node = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
	node.setAttribute('class', class_name);
	node.setAttribute('aria-hidden', 'true');
	const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
	use.setAttribute('href', `#${id}`);
	node.append(use);
	return node;
}

export const icon = (name, class_name = 'i') => svg(`i-${name}`, class_name);

// The glyph of a mode, the same in the shelf and on the edges of the film. Modes this page does not
// know get the plainest one.
const GLYPHS = new Set(['switch', 'recache', 'cut']);
export const mode_glyph = (mode) => svg(`g-${GLYPHS.has(mode) ? mode : 'switch'}`, 'glyph');

export function set_icon(button, name)
{
	button.querySelector('use').setAttribute('href', `#i-${name}`);
}

// Words with measured things in braces, "read {1.8 GB}", as nodes: what is in braces is set in mono.
export function measured(text)
{
	return text.split(/(\{[^}]*\})/).filter(Boolean).map((part) => (part.startsWith('{')
		? element('span', { class: 'mono', text: part.slice(1, -1) })
		: document.createTextNode(part)));
}

export function set_text(node, text)
{
	if (node.textContent !== text)
		node.textContent = text;
}

// Replaces a node's children only when `key` changed, so that views can be drawn as often as they like.
export function redraw(node, key, build)
{
	if (node.drawn_key === key)
		return;
	node.drawn_key = key;
	node.replaceChildren(...build());
}
