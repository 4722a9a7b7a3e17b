/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a fuzz target without libFuzzer: over each file of the folder that is its
 * argument, and over each of them cut short at every 1/16 and with single bytes
 * changed (by a fixed generator), so that the plain tests cover some faults. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

#define INPUT_BYTES_MAX (1 << 20)
#define CHANGES 64

static void variants_run(uint8_t *data, size_t size) {
	LLVMFuzzerTestOneInput(data, size);
	for (size_t i = 0; i < 16; i++)
		LLVMFuzzerTestOneInput(data, size * i / 16);
	uint32_t x = 1;
	for (int i = 0; size > 0 && i < CHANGES; i++) {
		x = x * 1664525 + 1013904223;
		size_t at = x % size;
		uint8_t old = data[at];
		data[at] = (uint8_t)(x >> 24);
		LLVMFuzzerTestOneInput(data, size);
		data[at] = old;
	}
}

static int file_run(const char *path, uint8_t *buffer) {
	FILE *f = fopen(path, "rb");
	if (!f)
		return -1;
	size_t size = fread(buffer, 1, INPUT_BYTES_MAX, f);
	fclose(f);
	variants_run(buffer, size);
	return 0;
}

int main(int argc, char **argv) {
	DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
	uint8_t *buffer = malloc(INPUT_BYTES_MAX);
	int files = 0, failed = 0;
	if (!dir || !buffer) {
		fprintf(stderr, "usage: %s CORPUS-FOLDER\n", argv[0]);
		return 2;
	}
	for (struct dirent *d; (d = readdir(dir));) {
		char path[4096];
		if (d->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "%s/%s", argv[1], d->d_name);
		failed += file_run(path, buffer) < 0;
		files++;
	}
	closedir(dir);
	free(buffer);
	printf("%d inputs\n", files);
	return files == 0 || failed;
}
