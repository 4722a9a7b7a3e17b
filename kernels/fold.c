/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/fold.h"

static int floor_half(int a) {
	return a >= 0 ? a / 2 : -((1 - a) / 2);
}

void fold_axis(int taps, int pad, int odd, int *count, int *before) {
	int first = floor_half(odd - pad), last = floor_half(odd - pad + taps - 1);
	*count = last - first + 1;
	*before = -first;
}

void fold_place(float *folded, const float *w, int64_t rows, const struct conv_spec *s,
	const int odd[2], int kh, int kw) {
	int64_t in = s->in;
	int count, top, left;
	fold_axis(s->kh, s->pad_top, odd[0], &count, &top);
	fold_axis(s->kw, s->pad_left, odd[1], &count, &left);
	for (int64_t r = 0; r < rows; r++) {
		for (int y = 0; y < s->kh; y++) {
			for (int x = 0; x < s->kw; x++) {
				int ky = floor_half(odd[0] - s->pad_top + y) + top;
				int kx = floor_half(odd[1] - s->pad_left + x) + left;
				float *to = folded + ((r * kh + ky) * kw + kx) * in;
				const float *from = w + ((r * s->kh + y) * s->kw + x) * in;
				for (int64_t i = 0; i < in; i++)
					to[i] += from[i];
			}
		}
	}
}
