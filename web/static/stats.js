// SPDX-License-Identifier: Apache-2.0
// Small numbers kept over a while: quantiles, rates, and the offset of the server's clock. Pure.

// Linear interpolation between order statistics; NaN for nothing, so that callers print a dash.
export function quantile(values, q)
{
	if (!values.length)
		return NaN;
	const sorted = [...values].sort((a, b) => a - b);
	const at = (sorted.length - 1) * q;
	const low = Math.floor(at);
	const high = Math.min(low + 1, sorted.length - 1);
	return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

export const median = (values) => quantile(values, .5);

// The last `limit` values.
export class Recent
{
	constructor(limit)
	{
		this.limit = limit;
		this.values = [];
	}

	add(value)
	{
		this.values.push(value);
		if (this.values.length > this.limit)
			this.values.shift();
	}
}

// Events a second over a sliding window.
export class Rate
{
	constructor(window_ms)
	{
		this.window_ms = window_ms;
		this.events = [];
	}

	// count: how many things this event stands for, like the frames of a chunk that comes at once.
	add(now_ms, count = 1)
	{
		this.events.push({ now_ms, count });
		this.trim(now_ms);
	}

	trim(now_ms)
	{
		while (this.events.length && this.events[0].now_ms < now_ms - this.window_ms)
			this.events.shift();
	}

	// NaN until half a window has been seen: a rate from two events says nothing.
	per_second(now_ms)
	{
		this.trim(now_ms);
		const { events } = this;
		const span_ms = events.length < 2 ? 0 : events[events.length - 1].now_ms - events[0].now_ms;
		if (span_ms < this.window_ms / 2)
			return NaN;
		return events.slice(0, -1).reduce((sum, event) => sum + event.count, 0) * 1000 / span_ms;
	}
}

// Moves server times to this page's clock: the median of the last eight ping/pong exchanges, each of
// them sure to half its round trip. Times in milliseconds.
export class ClockOffset
{
	constructor()
	{
		this.samples = [];
	}

	add(sent_ms, received_ms, server_ms)
	{
		this.samples.push({ offset: server_ms - (sent_ms + received_ms) / 2, doubt: (received_ms - sent_ms) / 2 });
		if (this.samples.length > 8)
			this.samples.shift();
	}

	get known()
	{
		return this.samples.length > 0;
	}

	get offset_ms()
	{
		return median(this.samples.map((s) => s.offset));
	}

	get doubt_ms()
	{
		return median(this.samples.map((s) => s.doubt));
	}

	to_page_ms(server_us)
	{
		return server_us / 1000 - this.offset_ms;
	}
}
