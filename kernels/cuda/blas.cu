/* SPDX-License-Identifier: Apache-2.0 */
/* Loading of cuBLASLt. */
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>

#include "kernels/cuda/blas.cuh"

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define LIBRARY "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

/* False: the function that *missing names is not in the library. */
static bool calls_find(struct blas *b, const char **missing) {
#define X(call) \
	b->call = reinterpret_cast<decltype(b->call)>(dlsym(b->library, *missing = #call)); \
	if (!b->call) \
		return false;
	BLAS_CALLS(X)
#undef X
	return true;
}

struct blas *blas_open(struct error *e) {
	struct blas *b = (struct blas *)calloc(1, sizeof *b);
	const char *missing = "";
	int r = 0;
	if (!b)
		r = error_set(e, -ENOMEM, "cuda: no host memory");
	else if (!(b->library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE)))
		r = error_set(e, -ENOENT, "cuda: %s; install cuBLAS of CUDA %d or name its folder in LD_LIBRARY_PATH", dlerror(),
			CUBLAS_VER_MAJOR);
	else if (!calls_find(b, &missing))
		r = error_set(e, -ENOENT, "cuda: " LIBRARY " has no %s; install cuBLAS of CUDA %d", missing, CUBLAS_VER_MAJOR);
	else if (b->cublasLtCreate(&b->handle) != CUBLAS_STATUS_SUCCESS)
		r = error_set(e, -EIO, "cuda: cuBLASLt does not start on this GPU");
	if (r == 0)
		return b;
	blas_close(b);
	return nullptr;
}

void blas_close(struct blas *b) {
	if (!b)
		return;
	if (b->handle)
		b->cublasLtDestroy(b->handle);
	if (b->library)
		dlclose(b->library);
	free(b);
}
