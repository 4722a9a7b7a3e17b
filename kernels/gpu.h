/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a GPU can be used, decided from what was found, without touching one:
 * so that every refusal is tested where there is none. Private to kernels/.
 * Thread: any. */
#ifndef KERNELS_GPU_H
#define KERNELS_GPU_H
#include "kernels/error.h"
#ifdef __cplusplus
extern "C" {
#endif
#define GPU_CAPABILITY_MIN 89

struct gpu_found {
	int needs, driver;   /* CUDA versions as 13000: this build's, the driver's (0: no driver) */
	const char *failure; /* of looking for devices; NULL: they were counted */
	int count;           /* devices */
	int capability;      /* of the wanted one, as 90; 0: not asked yet */
	const char *name;    /* of the wanted one, once asked */
};
/* 0, or -ENODEV and one line that says which and what to do. */
int gpu_usable(const struct gpu_found *f, int device, struct error *e);
#ifdef __cplusplus
}
#endif
#endif
