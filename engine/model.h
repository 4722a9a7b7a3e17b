/* SPDX-License-Identifier: Apache-2.0 */
/* What a model is, read from the manifest.json of its folder: components, their
 * files and sizes, schedule, cache, sparsity. Geometry, steps, frames per chunk
 * are data here and constants nowhere. Every field is checked against a range;
 * an unknown, missing or mis-typed one is an error that names it. Format and
 * defaults: engine/MODEL.md. Thread: any; constant after model_load. */
#ifndef ENGINE_MODEL_H
#define ENGINE_MODEL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "kernels/error.h"
#include "kernels/ops.h"
#include "engine/engine.h"
#define MODEL_STEPS_MAX 16
#define MODEL_FILES_MAX 64
#define MODEL_LATENT_CHANNELS_MAX 64
#define MODEL_MANIFEST_BYTES_MAX (1 << 20)

struct weights;

struct model_files {
	int count;
	char *name[MODEL_FILES_MAX]; /* relative to the folder; owned */
	char *strip; /* prefix taken off tensor names, or NULL; owned */
};
struct dit_config {
	struct model_files files;
	int dim, heads, layers, ffn_dim, freq_dim, text_dim, text_len;
	int patch_h, patch_w;
	float eps;
	double theta;
};
struct text_config {
	struct model_files files;
	int vocab, dim, dim_attention, heads, layers, ffn_dim, buckets, max_distance;
	float eps;
};
enum cleaning { CLEANING_NONE, CLEANING_WAN };
struct tokenizer_config {
	char *file; /* SentencePiece model; owned; NULL (random models): a token a byte */
	enum cleaning cleaning; /* what is done to the text before the tokenizer */
	int pad_id, eos_id;
	int text_len; /* tokens, end mark included (= dit.text_len) */
};
enum decoder_type { DECODER_TAEHV, DECODER_WAN_VAE };
struct decoder_config {
	struct model_files files;
	enum decoder_type type;
	int warmup_frames; /* pictures dropped at the start of a stream: 3 for upstream's TAEHV, 0
			      for the demo */
	int channels[4]; /* widths of a random model; 0: as the weights say */
	bool denormalise; /* latent * std + mean first */
	float mean[MODEL_LATENT_CHANNELS_MAX], std[MODEL_LATENT_CHANNELS_MAX];
};
enum rope_sink { ROPE_SINK_FIXED, ROPE_SINK_RELATIVE };
enum recache { RECACHE_NONE, RECACHE_SEQUENTIAL, RECACHE_JOINT };
struct cache_config {
	int window_frames; /* visible latent frames, the current chunk and the sink included */
	int sink_frames;
	enum rope_sink rope_sink; /* relative: the sink's keys follow the sliding window */
	enum recache recache;
};
struct sparsity_config {
	char policy[16]; /* "dense", "window", "topk", "hsa", "random" */
	int block; /* tokens */
	double target, base; /* chunk-aware growth: s_target, s_base */
	int horizon_frames; /* frames the growth is planned for; later chunks use the last entry */
	int keep_frames, keep_sink, keep_near;
};
struct model {
	char *dir, *name; /* owned */
	bool random; /* weights are invented */
	int width, height, fps_num, fps_den;
	int latent_channels, stride_t,
		stride_s; /* video decoder: pictures per latent frame, pixels per latent row */
	int chunk_frames; /* latent */
	int steps;
	double timestep[MODEL_STEPS_MAX]; /* warped, 1000 .. 0 exclusive */
	int first_steps; /* as above, for the first chunk of a scene; 0: no difference */
	double first_timestep[MODEL_STEPS_MAX];
	double shift; /* of the warp */
	/* A step from a timestep above this one noises the picture that it saw anew (multistep
	 * consistency sampling); from this one on x follows the flow (Euler). 0: always anew. */
	double renoise_above;
	double context_noise; /* timestep of the refresh pass */
	struct dit_config dit;
	struct text_config text;
	struct tokenizer_config tokenizer;
	struct decoder_config decoder;
	struct cache_config cache;
	struct sparsity_config sparsity;
	bool precision_allowed[PRECISION_INT8 + 1]; /* whose error this model bears */
	enum transition transition_first; /* the mode to offer first */
	char *suggestions_json; /* owned; compact JSON object */
};
/* spec: a folder, or "random:wan-1.3b", "random:wan-14b", each with an optional ",WxH". */
struct model *model_load(const char *spec, struct error *e);
/* The same from a manifest's text; dir is where its files are. */
struct model *model_parse(const char *json, size_t bytes, const char *dir, struct error *e);
void model_free(struct model *m); /* NULL is fine */
/* Every number against its range and against the others; names the field. */
int model_check(const struct model *m, struct error *e);
/* The weights of one component: its files, or random ones. weights_close them. */
struct weights *model_weights(const struct model *m, const struct model_files *f, struct error *e);
int model_latent_height(const struct model *m);
int model_latent_width(const struct model *m);
int model_frame_tokens(const struct model *m);
/* The warped schedule: t = 1000 * s * k / (1 + (s - 1) * k), k = index / 1000. */
double schedule_warp(double index, double shift);
/* Other steps for all chunks: "1000,400", positions before the warp, falling. NULL, "" and
 * "model" leave the model's. -EINVAL: nothing is changed. */
int schedule_parse(const char *spec, struct model *m, struct error *e);
/* "f32", "bf16", "fp8", "int8", "auto"; -1 when there is no such precision. */
const char *precision_name(enum precision p);
int precision_parse(const char *name);
#endif
