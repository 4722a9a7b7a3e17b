/* SPDX-License-Identifier: Apache-2.0 */
/* One safetensors file: its header parsed and every number in it checked
 * against the file, so that no later code needs to doubt an offset. Refused:
 * short files, headers that are no JSON or have duplicate keys, unknown dtypes,
 * shapes that disagree with the bytes, overlaps and gaps. Thread: any one at a time.
 * Source: the safetensors format, version 1. */
#ifndef ENGINE_SAFETENSORS_H
#define ENGINE_SAFETENSORS_H
#include <jansson.h>
#include <stddef.h>
#include "kernels/error.h"
#include "kernels/tensor.h"
#define SAFETENSORS_HEADER_MAX 100000000 /* bytes, the format's own limit */
#define SAFETENSORS_COUNT_MAX 65536 /* tensors of one file */
#define SAFETENSORS_NAME_MAX 256 /* bytes of a tensor name */

struct safetensors_entry {
	const char *name; /* borrowed from the header */
	struct tensor t; /* data points into the file, of any alignment; scale NULL */
};
struct safetensors {
	const unsigned char *bytes;
	size_t size;
	json_t *header; /* owned */
	json_t *metadata; /* owned object; values parsed where they are JSON */
	struct safetensors_entry *entry; /* owned, in the order of their data */
	int count;
	int mapped; /* bytes is a map of ours */
};
/* Maps path. 0, or a negative errno with *e naming path and tensor. */
int safetensors_open(struct safetensors *s, const char *path, struct error *e);
/* The same over memory that the caller keeps; path is for messages. */
int safetensors_parse(
	struct safetensors *s, const void *bytes, size_t size, const char *path, struct error *e);
void safetensors_close(struct safetensors *s); /* all zero is fine */
#endif
