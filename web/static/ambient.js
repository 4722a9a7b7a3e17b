// SPDX-License-Identifier: Apache-2.0
// The light around the picture: its colours on a tiny canvas, twice a second, softened there (a CSS blur
// of the whole stage costs a slow machine every eighth frame). Works in a worker and on the page.

const EVERY_MS = 500;
const WIDTH = 64;
const HEIGHT = 36;
const CORE = { width: 9, height: 5 };
const OVER = 6;                 // drawn over the edges, so that the softening finds colour there

function spare_canvas()
{
	const canvas = globalThis.OffscreenCanvas ? new OffscreenCanvas(1, 1) : document.createElement('canvas');
	return Object.assign(canvas, CORE);
}

export class Ambient
{
	// still: draw once and leave it (reduced motion).
	constructor(canvas, still)
	{
		canvas.width = WIDTH;
		canvas.height = HEIGHT;
		this.context = canvas.getContext('2d', { alpha: false });
		this.context.imageSmoothingQuality = 'high';
		this.context.filter = 'blur(4px) saturate(1.25)';
		this.core = spare_canvas();
		this.core_context = this.core.getContext('2d', { alpha: false });
		this.core_context.imageSmoothingQuality = 'high';
		this.still = still;
		this.drawn_ms = -Infinity;
	}

	draw(picture, now_ms)
	{
		if (now_ms - this.drawn_ms < EVERY_MS || (this.still && this.drawn_ms > 0))
			return;
		this.drawn_ms = now_ms;
		this.core_context.drawImage(picture, 0, 0, CORE.width, CORE.height);
		this.context.drawImage(this.core, -OVER, -OVER, WIDTH + 2 * OVER, HEIGHT + 2 * OVER);
	}
}
