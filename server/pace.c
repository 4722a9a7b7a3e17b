/* SPDX-License-Identifier: Apache-2.0 */
/* The media clock of a session. Thread: its owner's. */
#include "server/pace.h"

int64_t pace_begin_us(struct pace *p, int64_t index, int64_t now_us, int64_t lead_us,
	int64_t chunk_us, int fps_num, int fps_den) {
	if (!p->started)
		*p = (struct pace){true, now_us, index};
	int64_t due = p->origin_us + (index - p->origin_index) * 1000000 * fps_den / fps_num;
	int64_t begin = due - lead_us, late = now_us - begin;
	/* What the lead hides is caught up by the next chunks; a greater delay was
	 * seen as a stall, and rushing after it would only add latency. */
	if (late > lead_us && late > chunk_us) {
		p->origin_us += late;
		begin = now_us;
	}
	return begin;
}

void pace_stop(struct pace *p) {
	p->started = false;
}
