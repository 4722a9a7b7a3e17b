/* SPDX-License-Identifier: Apache-2.0 */
/* The refusals of a GPU, in the order in which they are found out. Thread: any. */
#include "kernels/gpu.h"

#include <errno.h>

int gpu_usable(const struct gpu_found *f, int device, struct error *e) {
	if (f->driver == 0)
		return error_set(e, -ENODEV,
			"no NVIDIA driver is installed: install one for CUDA %d.%d or newer, or "
			"use backend cpu",
			f->needs / 1000, f->needs % 1000 / 10);
	if (f->driver / 1000 < f->needs / 1000)
		return error_set(e, -ENODEV,
			"the NVIDIA driver speaks CUDA %d.%d, this build needs %d.%d: update the "
			"driver or use backend cpu",
			f->driver / 1000, f->driver % 1000 / 10, f->needs / 1000,
			f->needs % 1000 / 10);
	if (f->failure || f->count == 0)
		return error_set(e, -ENODEV,
			"no NVIDIA GPU can be used (%s): use backend cpu, or check nvidia-smi and "
			"CUDA_VISIBLE_DEVICES",
			f->failure ? f->failure : "none found");
	if (device >= f->count)
		return error_set(e, -ENODEV, "cuda:%d does not exist: there %s %d GPU%s, cuda:0%s",
			device, f->count == 1 ? "is" : "are", f->count, f->count == 1 ? "" : "s",
			f->count == 1 ? "" : " and up");
	if (f->capability && f->capability < GPU_CAPABILITY_MIN)
		return error_set(e, -ENODEV,
			"cuda:%d is a %s of compute capability %d.%d: %d.%d or newer is needed, "
			"use backend cpu",
			device, f->name, f->capability / 10, f->capability % 10,
			GPU_CAPABILITY_MIN / 10, GPU_CAPABILITY_MIN % 10);
	return 0;
}
