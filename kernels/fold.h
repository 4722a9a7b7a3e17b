/* SPDX-License-Identifier: Apache-2.0 */
/* A convolution over a nearest-doubled image as four on the small image, one per
 * place of a 2x2 square: taps that fall on the same source pixel are added up at
 * load, so that a 3x3 kernel becomes four 2x2 ones. Host only. Thread: any. */
#ifndef KERNELS_FOLD_H
#define KERNELS_FOLD_H
#include "kernels/ops.h"
#ifdef __cplusplus
extern "C" {
#endif
/* One axis of a kernel of `taps` at odd or even output places: taps on the small
 * image, and how far before the place the first one lies. */
void fold_axis(int taps, int pad, int odd, int *count, int *before);
/* w [rows, s->kh, s->kw, in] added up into folded [rows, kh, kw, in], zeroed by the
 * caller, for the place odd[] = {row, column}; kh, kw: at least what fold_axis says. */
void fold_place(float *folded, const float *w, int64_t rows, const struct conv_spec *s,
	const int odd[2], int kh, int kw);
#ifdef __cplusplus
}
#endif
#endif
