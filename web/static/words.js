// SPDX-License-Identifier: Apache-2.0
// Prompts as words: which of them changed, which letter a prompt has, which slot a caret is in. Pure.

// A prompt cut into words and what lies between them; joining the pieces gives the text back.
// Scripts without spaces are cut by the browser's own segmenter where it has one.
export function split_words(text)
{
	if (/[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]/.test(text) && globalThis.Intl?.Segmenter)
		return [...new Intl.Segmenter(undefined, { granularity: 'word' }).segment(text)].map((s) => s.segment);
	return text.match(/[\p{L}\p{N}\p{M}'’_-]+|[^\p{L}\p{N}\p{M}'’_-]+/gu) ?? [];
}

const is_word = (piece) => /[\p{L}\p{N}]/u.test(piece);
const fold = (piece) => piece.toLocaleLowerCase();

// Longest common subsequence of words, oldest first. Prompts hold at most a few hundred words, so the
// square table is small; beyond `limit` words everything counts as changed.
function common_words(before, after, limit = 600)
{
	const kept = new Set();
	if (before.length > limit || after.length > limit)
		return kept;
	const rows = before.length + 1;
	const cols = after.length + 1;
	const length = new Uint16Array(rows * cols);
	for (let i = before.length - 1; i >= 0; i--)
		for (let j = after.length - 1; j >= 0; j--)
			length[i * cols + j] = before[i] === after[j]
				? length[(i + 1) * cols + j + 1] + 1
				: Math.max(length[(i + 1) * cols + j], length[i * cols + j + 1]);
	for (let i = 0, j = 0; i < before.length && j < after.length;) {
		if (before[i] === after[j]) {
			kept.add(j);
			i++;
			j++;
		} else if (length[(i + 1) * cols + j] >= length[i * cols + j + 1]) {
			i++;
		} else {
			j++;
		}
	}
	return kept;
}

// The text of `after` in runs of [{text, changed}], held against `before`. Spaces between two changed
// words belong to the change, so an underline does not break.
export function diff_words(before, after)
{
	const pieces = split_words(after);
	const word_at = [];
	pieces.forEach((piece, i) => is_word(piece) && word_at.push(i));
	const kept = common_words(split_words(before).filter(is_word).map(fold), word_at.map((i) => fold(pieces[i])));
	const changed = new Array(pieces.length).fill(false);
	word_at.forEach((i, n) => { changed[i] = !kept.has(n); });
	for (let n = 0; n + 1 < word_at.length; n++)
		if (changed[word_at[n]] && changed[word_at[n + 1]])
			changed.fill(true, word_at[n], word_at[n + 1]);
	const runs = [];
	pieces.forEach((text, i) => {
		const last = runs[runs.length - 1];
		if (last && last.changed === changed[i])
			last.text += text;
		else
			runs.push({ text, changed: changed[i] });
	});
	return runs;
}

// What to print where there is little room: the changed words, with an ellipsis for what stands before.
export function changed_first(before, after)
{
	if (!before)
		return after;
	const runs = diff_words(before, after);
	const at = runs.findIndex((run) => run.changed);
	if (at <= 0)
		return after;
	return `… ${runs.slice(at).map((run) => run.text).join('')}`;
}

// Revision 1 is A, 26 is Z, 27 is AA.
export function letter(revision)
{
	let text = '';
	for (let n = revision; n > 0; n = Math.floor((n - 1) / 26))
		text = String.fromCharCode(65 + (n - 1) % 26) + text;
	return text || '·';
}

// Which of the six hues a revision has, 1 to 6.
export const hue = (revision) => ((revision - 1) % 6 + 6) % 6 + 1;

// The slot word under the caret: {slot, word, start, end}, or null. The longest word wins, so that
// "snowy mountains" is found before "mountains".
export function slot_at(text, caret, slots)
{
	let best = null;
	const folded = text.toLocaleLowerCase();
	for (const slot of slots) {
		for (const word of slot.words) {
			const needle = word.toLocaleLowerCase();
			for (let at = folded.indexOf(needle); needle && at >= 0; at = folded.indexOf(needle, at + 1)) {
				const end = at + word.length;
				const whole = !/[\p{L}\p{N}]/u.test(folded[at - 1] ?? ' ') && !/[\p{L}\p{N}]/u.test(folded[end] ?? ' ');
				if (whole && caret >= at && caret <= end && (!best || word.length > best.word.length))
					best = { slot, word, start: at, end };
			}
		}
	}
	return best;
}

// One line of text: line breaks and control characters become spaces.
export const one_line = (text) => text.replace(/[\u0000-\u001f\u007f\u2028\u2029]+/g, ' ');

export const byte_length = (text) => new TextEncoder().encode(text).length;
