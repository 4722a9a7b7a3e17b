/* SPDX-License-Identifier: Apache-2.0 */
// The one file that knows the SentencePiece library, which speaks only C++.
// No exception leaves it.
#include "engine/spm.h"

#include <cerrno>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include <sentencepiece_processor.h>

struct spm {
	sentencepiece::SentencePieceProcessor processor;
};

extern "C" struct spm *spm_load(const char *path, struct error *e) {
	struct spm *s = nullptr;
	try {
		s = new spm;
		const auto status = s->processor.Load(path);
		if (status.ok())
			return s;
		error_set(e, -EINVAL, "%s: not a SentencePiece model: %s", path,
			status.ToString().c_str());
	} catch (const std::exception &x) {
		error_set(e, -EINVAL, "%s: %s", path, x.what());
	}
	delete s;
	return nullptr;
}

extern "C" void spm_free(struct spm *s) {
	delete s;
}

extern "C" int spm_pieces(const struct spm *s) {
	return s->processor.GetPieceSize();
}

extern "C" int spm_eos(const struct spm *s) {
	return s->processor.eos_id();
}

extern "C" int spm_encode(const struct spm *s, const char *utf8, size_t bytes, int32_t *ids,
	int max, struct error *e) {
	try {
		std::vector<int> all;
		const auto status = s->processor.Encode({utf8, bytes}, &all);
		if (!status.ok())
			return error_set(e, -EINVAL, "tokenizer: %s", status.ToString().c_str());
		for (size_t i = 0; i < all.size() && i < static_cast<size_t>(max); i++)
			ids[i] = all[i];
		return static_cast<int>(all.size());
	} catch (const std::exception &x) {
		return error_set(e, -ENOMEM, "tokenizer: %s", x.what());
	}
}
