// SPDX-License-Identifier: Apache-2.0
// The REST side: a few calls, each answering the body or throwing a Problem (RFC 9457) in words.

export class Problem extends Error
{
	constructor(status, body, retry_after_s)
	{
		super(body?.detail || body?.title || (status ? `The server answered ${status}.` : 'The server cannot be reached.'));
		this.status = status;
		this.code = body?.code ?? (status ? `http_${status}` : 'unreachable');
		this.body = body ?? {};
		this.retry_after_s = retry_after_s;
	}
}

async function call(method, path, body)
{
	let response;
	try {
		response = await fetch(path, {
			method, cache: 'no-store',
			headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
			body: body === undefined ? undefined : JSON.stringify(body),
		});
	} catch {
		throw new Problem(0, null, NaN);
	}
	const text = await response.text();
	let answer = null;
	try {
		answer = text ? JSON.parse(text) : null;
	} catch {
		answer = { detail: text.slice(0, 200) };
	}
	if (!response.ok)
		throw new Problem(response.status, answer, Number(response.headers.get('Retry-After')) || NaN);
	return answer;
}

const session_path = (id, rest = '') => `/v1/sessions/${encodeURIComponent(id)}${rest}`;

export const get_capabilities = () => call('GET', '/v1/capabilities');
export const list_sessions = async () => (await call('GET', '/v1/sessions')).sessions ?? [];
export const get_session = (id) => call('GET', session_path(id));
export const create_session = (body) => call('POST', '/v1/sessions', body);
export const send_prompt = (id, body) => call('POST', session_path(id, '/prompts'), body);

// {ready: true}, or how far loading is: {ready: false, stage, loaded_bytes, total_bytes}.
export async function get_readiness()
{
	try {
		await call('GET', '/readyz');
		return { ready: true };
	} catch (problem) {
		if (problem.status !== 503)
			throw problem;
		return { ready: false, ...problem.body };
	}
}

// The server's prompt errors, in the words the page prints under the line.
export function prompt_problem_words({ code, message, ...body })
{
	switch (code) {
	case 'prompt_too_long':
		return `${message} The words stay in the line; shorten them.`;
	case 'prompt_empty':
		return 'There are no words in the line.';
	case 'rate_limited':
		return `Too fast. Next try in ${Math.ceil(body.retry_after_s ?? 1)} s.`;
	case 'wrong_state':
		return message || 'The stream is not running: start it first.';
	case 'forbidden_role':
		return 'Your link may watch, not steer.';
	default:
		return message;
	}
}
