#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The program starts where no GPU library is installed, and maps none where no GPU is used.
#
#	test_linkage.sh PROGRAM
set -eu
needed=$(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
[ -n "$needed" ] || { echo "readelf names no library of $1"; exit 1; }
if echo "$needed" | grep -E '^lib(cublas|cuda|cudnn|nv)'; then
	echo "is needed to start $1; load it when a GPU is opened (kernels/cuda/blas.cu)"
	exit 1
fi
