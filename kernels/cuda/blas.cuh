/* SPDX-License-Identifier: Apache-2.0 */
/* cuBLASLt as a table of its functions, loaded when a GPU is opened: linked, the
 * library would cost 150 MiB where no GPU is used, and keep the program from
 * starting where it is not installed. Thread: the backend's; calls may come from
 * a lane's too. */
#pragma once
#include "kernels/cuda/cuda.h"

#define BLAS_CALLS(X) \
	X(cublasLtCreate) \
	X(cublasLtDestroy) \
	X(cublasLtGetStatusString) \
	X(cublasLtMatmul) \
	X(cublasLtMatmulAlgoGetHeuristic) \
	X(cublasLtMatmulDescCreate) \
	X(cublasLtMatmulDescDestroy) \
	X(cublasLtMatmulDescSetAttribute) \
	X(cublasLtMatmulPreferenceCreate) \
	X(cublasLtMatmulPreferenceDestroy) \
	X(cublasLtMatmulPreferenceSetAttribute) \
	X(cublasLtMatrixLayoutCreate) \
	X(cublasLtMatrixLayoutDestroy)

struct blas {
	void *library;
	cublasLtHandle_t handle;
#define X(name) decltype(&::name) name;
	BLAS_CALLS(X)
#undef X
};

/* Of the current device; blas_close gives it back. NULL with an error that says what to do. */
struct blas *blas_open(struct error *e);
void blas_close(struct blas *b); /* NULL does nothing */
