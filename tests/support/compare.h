/* SPDX-License-Identifier: Apache-2.0 */
/* How far an array is from its reference. NaN or infinity on either side never
 * passes: every measure becomes infinite. Thread: any. */
#ifndef TESTS_SUPPORT_COMPARE_H
#define TESTS_SUPPORT_COMPARE_H
#include <math.h>
#include <stdint.h>
#include <stdio.h>

/* L-inf of the difference over L-inf of the reference (over 1e-30 when that is 0). */
static inline double compare_max(const float *got, const float *want, int64_t n) {
	double worst = 0, peak = 1e-30;
	for (int64_t i = 0; i < n; i++) {
		double d = fabs((double)got[i] - (double)want[i]);
		if (!isfinite(d))
			return INFINITY;
		worst = d > worst ? d : worst;
		peak = fabs((double)want[i]) > peak ? fabs((double)want[i]) : peak;
	}
	return worst / peak;
}

/* L2 norm of the difference over that of the reference. */
static inline double compare_l2(const float *got, const float *want, int64_t n) {
	double diff = 0, norm = 1e-60;
	for (int64_t i = 0; i < n; i++) {
		double d = (double)got[i] - (double)want[i];
		if (!isfinite(d))
			return INFINITY;
		diff += d * d;
		norm += (double)want[i] * (double)want[i];
	}
	return sqrt(diff / norm);
}

/* Largest absolute difference. */
static inline double compare_abs(const float *got, const float *want, int64_t n) {
	double worst = 0;
	for (int64_t i = 0; i < n; i++) {
		double d = fabs((double)got[i] - (double)want[i]);
		if (!isfinite(d))
			return INFINITY;
		worst = d > worst ? d : worst;
	}
	return worst;
}
#endif
