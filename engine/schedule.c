/* SPDX-License-Identifier: Apache-2.0 */
/* The denoising schedule: positions of the table of 1000, warped, and what an
 * operator gives in place of the model's own. Thread: any. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model.h"

double schedule_warp(double index, double shift) {
	double k = index / 1000;
	return 1000 * shift * k / (1 + (shift - 1) * k);
}

int schedule_parse(const char *spec, struct model *m, struct error *e) {
	double step[MODEL_STEPS_MAX];
	int n = 0;
	if (!spec || !*spec || strcmp(spec, "model") == 0)
		return 0;
	for (const char *at = spec;; at++) {
		char *end;
		double v = n < MODEL_STEPS_MAX ? strtod(at, &end) : 0;
		if (!(v > 0 && v <= 1000) || end == at || (*end && *end != ',') ||
			(n > 0 && v >= step[n - 1]))
			return error_set(e, -EINVAL,
				"steps \"%.80s\": must be model, or 1 to %d falling numbers, at "
				"most "
				"1000 and above 0, with commas between them",
				spec, MODEL_STEPS_MAX);
		step[n++] = v;
		at = end;
		if (!*at)
			break;
	}
	double last = schedule_warp(step[n - 1], m->shift);
	if (m->context_noise >= last)
		return error_set(e, -EINVAL,
			"steps \"%.80s\": the last is timestep %g, which must be above the model's "
			"schedule.context_noise, %g",
			spec, last, m->context_noise);
	for (int i = 0; i < n; i++)
		m->timestep[i] = schedule_warp(step[i], m->shift);
	m->steps = n;
	m->first_steps = 0;
	return 0;
}
