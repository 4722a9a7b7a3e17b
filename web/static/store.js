// SPDX-License-Identifier: Apache-2.0
// What the page knows, in one object, and who wants to hear of changes. Changes made together are
// told together, in the next microtask.

export class Store
{
	constructor(values)
	{
		this.values = { ...values };
		this.listeners = [];
		this.changed = null;
	}

	get(name)
	{
		return this.values[name];
	}

	set(patch)
	{
		for (const [name, value] of Object.entries(patch)) {
			if (Object.is(this.values[name], value))
				continue;
			this.values[name] = value;
			this.#mark(name);
		}
	}

	// For values changed in place, like lists.
	touch(name)
	{
		this.#mark(name);
	}

	on(names, listener)
	{
		this.listeners.push({ names, listener });
		listener(this.values);
	}

	#mark(name)
	{
		if (!this.changed) {
			this.changed = new Set();
			queueMicrotask(() => this.#tell());
		}
		this.changed.add(name);
	}

	#tell()
	{
		const { changed } = this;
		this.changed = null;
		for (const { names, listener } of this.listeners)
			if (names.some((name) => changed.has(name)))
				listener(this.values);
	}
}

// What a browser may forget to allow (private windows, blocked storage) must not stop the page.
function storage_of(kind)
{
	return {
		get(name) {
			try {
				return globalThis[kind].getItem(`lightforced.${name}`);
			} catch {
				return null;
			}
		},
		set(name, value) {
			try {
				globalThis[kind].setItem(`lightforced.${name}`, value);
			} catch {
				// Kept for this page only, then.
			}
		},
	};
}

export const kept_here = storage_of('localStorage');
export const kept_in_tab = storage_of('sessionStorage');
