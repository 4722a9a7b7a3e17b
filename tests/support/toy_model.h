/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a model folder of a few kilobytes with random weights, so that tests can run
 * the whole engine in milliseconds. The tokenizer is the demo model's.
 * Latents are 16 channels of 4 x 6, pictures 48 x 32; 6 tokens a frame. */
#ifndef TESTS_TOY_MODEL_H
#define TESTS_TOY_MODEL_H
struct toy_model {
	int window_frames, sink_frames, chunk_frames; /* 0: 9, 3, 3 */
	const char *rope_sink; /* NULL: "relative" */
	const char *recache; /* NULL: "sequential" */
	const char *policy; /* NULL: "dense" */
	int warmup_frames;
	const char *first_steps; /* JSON list, or NULL */
};
/* Makes a new folder under $TMPDIR or /tmp and fills it; its path in `dir`, which has
 * room for 256 bytes. 0, or -1 when something could not be written. */
int toy_model_write(const struct toy_model *t, char *dir);
void toy_model_remove(const char *dir);
#endif
