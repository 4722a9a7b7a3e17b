/* SPDX-License-Identifier: Apache-2.0 */
/* Hopper's matrix instruction (sm_90a): four warps multiply 64 rows of A, in
 * registers as mma.sync wants them, by a [N, 16] tile of B in shared memory, K
 * first, swizzled. Sums lie as mma.sync's do, one fragment of 8 columns after the
 * other. Elsewhere WGMMA is 0 and none of this is compiled. */
#pragma once
#include "kernels/cuda/sm90.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WGMMA 1
#else
#define WGMMA 0
#endif

#if WGMMA
/* A tile of rows of 128 or 64 bytes, swizzled over so many; address a multiple of
 * eight rows. Sixteen of K further: + 2. */
template <int ROW_BYTES> __device__ __forceinline__ uint64_t wgmma_tile(uint32_t address) {
	static_assert(ROW_BYTES == 128 || ROW_BYTES == 64, "swizzle");
	return ((uint64_t)(ROW_BYTES == 128 ? 1 : 2) << 62) | ((uint64_t)(8 * ROW_BYTES >> 4) << 32) | (1ull << 16) |
	       ((address & 0x3ffff) >> 4);
}

/* d += a b^T for N = 8 * NJ columns. */
template <int NJ> __device__ __forceinline__ void wgmma_bf16(float (&d)[NJ][4], const uint32_t a[4], uint64_t b);
#define QUAD(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
template <> __device__ __forceinline__ void wgmma_bf16<8>(float (&d)[8][4], const uint32_t a[4], uint64_t b) {
	asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
		     "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
		     "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
		     "{%32,%33,%34,%35}, %36, 1, 1, 1, 0;\n"
		     : QUAD(0), QUAD(1), QUAD(2), QUAD(3), QUAD(4), QUAD(5), QUAD(6), QUAD(7)
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
template <> __device__ __forceinline__ void wgmma_bf16<12>(float (&d)[12][4], const uint32_t a[4], uint64_t b) {
	asm volatile("wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 "
		     "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
		     "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
		     "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47}, "
		     "{%48,%49,%50,%51}, %52, 1, 1, 1, 0;\n"
		     : QUAD(0), QUAD(1), QUAD(2), QUAD(3), QUAD(4), QUAD(5), QUAD(6), QUAD(7), QUAD(8), QUAD(9), QUAD(10), QUAD(11)
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
template <> __device__ __forceinline__ void wgmma_bf16<16>(float (&d)[16][4], const uint32_t a[4], uint64_t b) {
	asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
		     "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
		     "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
		     "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
		     "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, "
		     "{%64,%65,%66,%67}, %68, 1, 1, 1, 0;\n"
		     : QUAD(0), QUAD(1), QUAD(2), QUAD(3), QUAD(4), QUAD(5), QUAD(6), QUAD(7), QUAD(8), QUAD(9), QUAD(10), QUAD(11), QUAD(12), QUAD(13), QUAD(14), QUAD(15)
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
template <> __device__ __forceinline__ void wgmma_bf16<24>(float (&d)[24][4], const uint32_t a[4], uint64_t b) {
	asm volatile("wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 "
		     "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
		     "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
		     "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
		     "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
		     "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"
		     "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95}, "
		     "{%96,%97,%98,%99}, %100, 1, 1, 1, 0;\n"
		     : QUAD(0), QUAD(1), QUAD(2), QUAD(3), QUAD(4), QUAD(5), QUAD(6), QUAD(7), QUAD(8), QUAD(9), QUAD(10), QUAD(11), QUAD(12), QUAD(13), QUAD(14), QUAD(15), QUAD(16), QUAD(17), QUAD(18), QUAD(19), QUAD(20), QUAD(21), QUAD(22), QUAD(23)
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#undef QUAD
#endif
