/* SPDX-License-Identifier: Apache-2.0 */
/* The op table of one instruction set. Compiled per set. */
#include "kernels/cpu/cpu.h"

void CPU_NAME(norm_fill)(struct ops *ops);
void CPU_NAME(pointwise_fill)(struct ops *ops);
void CPU_NAME(kv_fill)(struct ops *ops);
void CPU_NAME(attention_fill)(struct ops *ops);
void CPU_NAME(select_fill)(struct ops *ops);
void CPU_NAME(patch_fill)(struct ops *ops);
void CPU_NAME(noise_fill)(struct ops *ops);
void CPU_NAME(color_fill)(struct ops *ops);
void CPU_NAME(cpu_ops)(struct ops *ops);

void CPU_NAME(cpu_ops)(struct ops *ops) {
	CPU_NAME(norm_fill)(ops);
	CPU_NAME(pointwise_fill)(ops);
	CPU_NAME(kv_fill)(ops);
	CPU_NAME(attention_fill)(ops);
	CPU_NAME(select_fill)(ops);
	CPU_NAME(patch_fill)(ops);
	CPU_NAME(noise_fill)(ops);
	CPU_NAME(color_fill)(ops);
}
