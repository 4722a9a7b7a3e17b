/* SPDX-License-Identifier: Apache-2.0 */
/* A model folder for tests; see toy_model.h. */
#include "tests/support/toy_model.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	DIM = 48,
	HEADS = 2,
	LAYERS = 2,
	FFN = 64,
	FREQ = 32,
	TEXT_DIM = 32,
	TEXT_LEN = 24,
	TEXT_FFN = 40,
	VOCAB = 512, /* enough for any demo tokenizer */
	BUCKETS = 32,
	LATENT = 16,
	WIDTH_0 = 8, /* of the decoder's four levels */
	WIDTH_1 = 8,
	WIDTH_2 = 4,
	WIDTH_3 = 4
};

/* A safetensors file in the making. */
struct file {
	char *header;
	size_t header_size;
	FILE *h;
	float *data;
	size_t count, room;
	uint64_t random;
};

static double uniform(struct file *f) {
	f->random = f->random * 6364136223846793005u + 1442695040888963407u;
	return (double)(f->random >> 11) * 0x1p-53;
}

/* Near N(0, spread) around `center`. */
static void tensor(
	struct file *f, const char *name, double center, double spread, int rank, const int *dim) {
	size_t count = 1;
	for (int i = 0; i < rank; i++)
		count *= (size_t)dim[i];
	if (f->count + count > f->room) {
		f->room = 2 * (f->count + count);
		f->data = realloc(f->data, f->room * sizeof *f->data);
		if (!f->data)
			abort();
	}
	fprintf(f->h, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", f->count ? "," : "", name);
	for (int i = 0; i < rank; i++)
		fprintf(f->h, "%s%d", i ? "," : "", dim[i]);
	fprintf(f->h, "],\"data_offsets\":[%zu,%zu]}", f->count * sizeof(float),
		(f->count + count) * sizeof(float));
	for (size_t i = 0; i < count; i++) {
		double sum = 0;
		for (int k = 0; k < 12; k++)
			sum += uniform(f);
		f->data[f->count++] = (float)(center + spread * (sum - 6));
	}
}

static void weight(struct file *f, const char *name, int out, int in) {
	char full[96];
	snprintf(full, sizeof full, "%s.weight", name);
	tensor(f, full, 0, 1 / sqrt(in), 2, (int[]){out, in});
}

static void bias(struct file *f, const char *name, int out) {
	char full[96];
	snprintf(full, sizeof full, "%s.bias", name);
	tensor(f, full, 0, .05, 1, &out);
}

static void linear(struct file *f, const char *name, int out, int in) {
	weight(f, name, out, in);
	bias(f, name, out);
}

static void gain(struct file *f, const char *name, int n) {
	char full[96];
	snprintf(full, sizeof full, "%s.weight", name);
	tensor(f, full, 1, .1, 1, &n);
}

static void conv(struct file *f, const char *name, int out, int in, int taps, int with_bias) {
	char full[96];
	snprintf(full, sizeof full, "%s.weight", name);
	tensor(f, full, 0, 1 / sqrt(in * taps * taps), 4, (int[]){out, in, taps, taps});
	if (with_bias)
		bias(f, name, out);
}

static void file_begin(struct file *f, uint64_t seed) {
	*f = (struct file){.random = seed};
	f->h = open_memstream(&f->header, &f->header_size);
	if (!f->h)
		abort();
	fputc('{', f->h);
}

static int file_end(struct file *f, const char *dir, const char *name) {
	char path[512];
	fputc('}', f->h);
	fclose(f->h);
	snprintf(path, sizeof path, "%s/%s", dir, name);
	FILE *out = fopen(path, "wb");
	uint64_t length = f->header_size;
	int ok = out && fwrite(&length, 8, 1, out) == 1 &&
		 fwrite(f->header, 1, f->header_size, out) == f->header_size &&
		 fwrite(f->data, sizeof *f->data, f->count, out) == f->count;
	if (out)
		ok = fclose(out) == 0 && ok;
	free(f->header);
	free(f->data);
	return ok ? 0 : -1;
}

static void dit_fill(struct file *f) {
	static const char *const square[] = {"self_attn.q", "self_attn.k", "self_attn.v",
		"self_attn.o", "cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o"};
	static const char *const gains[] = {"self_attn.norm_q", "self_attn.norm_k",
		"cross_attn.norm_q", "cross_attn.norm_k", "norm3"};
	char name[64];
	tensor(f, "patch_embedding.weight", 0, .125, 5, (int[]){DIM, LATENT, 1, 2, 2});
	bias(f, "patch_embedding", DIM);
	linear(f, "text_embedding.0", DIM, TEXT_DIM);
	linear(f, "text_embedding.2", DIM, DIM);
	linear(f, "time_embedding.0", DIM, FREQ);
	linear(f, "time_embedding.2", DIM, DIM);
	linear(f, "time_projection.1", 6 * DIM, DIM);
	for (int l = 0; l < LAYERS; l++) {
		for (int i = 0; i < 8; i++) {
			snprintf(name, sizeof name, "blocks.%d.%s", l, square[i]);
			linear(f, name, DIM, DIM);
		}
		for (int i = 0; i < 5; i++) {
			snprintf(name, sizeof name, "blocks.%d.%s", l, gains[i]);
			gain(f, name, DIM);
		}
		snprintf(name, sizeof name, "blocks.%d.norm3", l);
		bias(f, name, DIM);
		snprintf(name, sizeof name, "blocks.%d.ffn.0", l);
		linear(f, name, FFN, DIM);
		snprintf(name, sizeof name, "blocks.%d.ffn.2", l);
		linear(f, name, DIM, FFN);
		snprintf(name, sizeof name, "blocks.%d.modulation", l);
		tensor(f, name, 0, .3, 3, (int[]){1, 6, DIM});
	}
	tensor(f, "head.modulation", 0, .3, 3, (int[]){1, 2, DIM});
	linear(f, "head.head", 4 * LATENT, DIM);
}

static void text_fill(struct file *f) {
	static const char *const square[] = {"q", "k", "v", "o"};
	char name[64];
	tensor(f, "token_embedding.weight", 0, 1, 2, (int[]){VOCAB, TEXT_DIM});
	for (int i = 0; i < 4; i++) {
		snprintf(name, sizeof name, "blocks.0.attn.%s", square[i]);
		weight(f, name, TEXT_DIM, TEXT_DIM);
	}
	gain(f, "blocks.0.norm1", TEXT_DIM);
	gain(f, "blocks.0.norm2", TEXT_DIM);
	weight(f, "blocks.0.ffn.gate.0", TEXT_FFN, TEXT_DIM);
	weight(f, "blocks.0.ffn.fc1", TEXT_FFN, TEXT_DIM);
	weight(f, "blocks.0.ffn.fc2", TEXT_DIM, TEXT_FFN);
	tensor(f, "blocks.0.pos_embedding.embedding.weight", 0, .5, 2, (int[]){BUCKETS, HEADS});
	gain(f, "norm", TEXT_DIM);
}

static void decoder_fill(struct file *f) {
	static const int width[4] = {WIDTH_0, WIDTH_1, WIDTH_2, WIDTH_3};
	char name[64];
	conv(f, "decoder.1", WIDTH_0, LATENT, 3, 1);
	for (int level = 0; level < 3; level++) {
		int first = 3 + 6 * level, w = width[level], grow = level ? 2 : 1;
		for (int b = first; b < first + 3; b++) {
			for (int k = 0; k < 5; k += 2) {
				snprintf(name, sizeof name, "decoder.%d.conv.%d", b, k);
				conv(f, name, w, k ? w : 2 * w, 3, 1);
			}
		}
		snprintf(name, sizeof name, "decoder.%d.conv", first + 4);
		conv(f, name, grow * w, w, 1, 0);
		snprintf(name, sizeof name, "decoder.%d", first + 5);
		conv(f, name, width[level + 1], w, 3, 0);
	}
	conv(f, "decoder.22", 3, WIDTH_3, 3, 1);
}

static int manifest_write(const struct toy_model *t, const char *dir) {
	char path[512];
	snprintf(path, sizeof path, "%s/manifest.json", dir);
	FILE *f = fopen(path, "w");
	if (!f)
		return -1;
	int chunk = t->chunk_frames ? t->chunk_frames : 3;
	fprintf(f,
		"{\"format\":1,\"name\":\"toy\",\"video\":{\"width\":48,\"height\":32,\"fps\":16},"
		"\"latent\":{\"channels\":%d,\"chunk_frames\":%d},"
		"\"schedule\":{\"steps\":[1000,500],\"shift\":5%s%s},",
		LATENT, chunk, t->first_steps ? ",\"first_steps\":" : "",
		t->first_steps ? t->first_steps : "");
	fprintf(f,
		"\"dit\":{\"files\":[\"dit.safetensors\"],\"dim\":%d,\"heads\":%d,\"layers\":%d,"
		"\"ffn_dim\":%d,\"freq_dim\":%d,\"text_dim\":%d,\"text_len\":%d,\"patch\":[2,2]},",
		DIM, HEADS, LAYERS, FFN, FREQ, TEXT_DIM, TEXT_LEN);
	fprintf(f,
		"\"text\":{\"files\":[\"text.safetensors\"],\"vocab\":%d,\"dim\":%d,"
		"\"dim_attention\":%d,\"heads\":%d,\"layers\":1,\"ffn_dim\":%d,\"buckets\":%d},",
		VOCAB, TEXT_DIM, TEXT_DIM, HEADS, TEXT_FFN, BUCKETS);
	fprintf(f,
		"\"tokenizer\":{\"file\":\"tokenizer.model\",\"cleaning\":\"none\"},"
		"\"decoder\":{\"type\":\"taehv\",\"files\":[\"decoder.safetensors\"],"
		"\"warmup_frames\":%d},",
		t->warmup_frames);
	fprintf(f,
		"\"cache\":{\"window_frames\":%d,\"sink_frames\":%d,\"rope_sink\":\"%s\","
		"\"recache\":\"%s\"},",
		t->window_frames ? t->window_frames : 9, t->window_frames ? t->sink_frames : 3,
		t->rope_sink ? t->rope_sink : "relative", t->recache ? t->recache : "sequential");
	fprintf(f,
		"\"sparsity\":{\"policy\":\"%s\",\"block\":4,\"target\":0.5,\"base\":0.6,"
		"\"horizon_frames\":%d,\"keep_frames\":3,\"keep_sink\":1,\"keep_near\":1},"
		"\"precision\":[\"f32\"]}\n",
		t->policy ? t->policy : "dense", 4 * chunk);
	return fclose(f);
}

static int tokenizer_copy(const char *dir) {
	char path[512], bytes[4096];
	const char *root = getenv("LIGHTFORCED_ROOT");
	snprintf(path, sizeof path, "%s/models/demo/tokenizer.model", root ? root : ".");
	FILE *from = fopen(path, "rb");
	snprintf(path, sizeof path, "%s/tokenizer.model", dir);
	FILE *to = from ? fopen(path, "wb") : NULL;
	size_t n;
	while (to && (n = fread(bytes, 1, sizeof bytes, from)) > 0)
		fwrite(bytes, 1, n, to);
	if (from)
		fclose(from);
	return to ? fclose(to) : -1;
}

int toy_model_write(const struct toy_model *t, char *dir) {
	static const struct {
		const char *name;
		void (*fill)(struct file *f);
	} files[] = {{"dit.safetensors", dit_fill}, {"text.safetensors", text_fill},
		{"decoder.safetensors", decoder_fill}};
	const char *base = getenv("TMPDIR");
	snprintf(dir, 256, "%s/toy_model_XXXXXX", base ? base : "/tmp");
	if (!mkdtemp(dir))
		return -1;
	for (uint64_t i = 0; i < sizeof files / sizeof files[0]; i++) {
		struct file f;
		file_begin(&f, i + 1);
		files[i].fill(&f);
		if (file_end(&f, dir, files[i].name) < 0)
			return -1;
	}
	return manifest_write(t, dir) || tokenizer_copy(dir) ? -1 : 0;
}

void toy_model_remove(const char *dir) {
	static const char *const names[] = {"dit.safetensors", "text.safetensors",
		"decoder.safetensors", "manifest.json", "tokenizer.model"};
	char path[512];
	for (int i = 0; i < 5; i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
}
