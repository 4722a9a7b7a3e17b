// SPDX-License-Identifier: Apache-2.0
// One voice for screen readers: short sentences, politely, at most one each three seconds. Sentences
// that wait are merged; of two about the same topic the newer one wins.

const QUIET_MS = 3000;

export class Announcer
{
	constructor(status, alert)
	{
		this.status = status;
		this.alert_node = alert;
		this.waiting = new Map();
		this.said_ms = -Infinity;
	}

	say(topic, sentence)
	{
		if (!sentence)
			return;
		this.waiting.set(topic, sentence);
		const wait_ms = Math.max(0, this.said_ms + QUIET_MS - performance.now());
		this.timer ??= setTimeout(() => this.#speak(), wait_ms);
	}

	// For what must not wait: failures and refusals.
	alert(sentence)
	{
		this.alert_node.textContent = sentence;
	}

	#speak()
	{
		this.timer = undefined;
		this.said_ms = performance.now();
		this.status.textContent = [...this.waiting.values()].join(' ');
		this.waiting.clear();
	}
}
