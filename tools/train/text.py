# SPDX-License-Identifier: Apache-2.0
"""The demo's tokenizer: a SentencePiece unigram model in which every word of the caption grammar is one piece.

    python3 tools/train/text.py tokenizer.model            makes it
Also carries a text encoder's embeddings over from another tokenizer, piece by piece.
"""

from __future__ import annotations

import collections
import io
import math
import random
import sys

import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2 as model_pb
from torch import Tensor

import attributes
import captions
from nets import TEXT_LENGTH

PAD, EOS, UNK = 0, 1, 2
_SPACE = "\u2581"


class Tokenizer:
    """Text to fixed-length ids: pieces, then the end mark, then padding."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.model = sentencepiece.SentencePieceProcessor(model_file=path)

    def __len__(self) -> int:
        return self.model.vocab_size()

    def encode(self, texts: list[str]) -> Tensor:
        """[texts, 64] int16."""
        out = torch.zeros(len(texts), TEXT_LENGTH, dtype=torch.int16)
        for row, ids in zip(out, self.model.encode(texts), strict=True):
            ids = ids[:TEXT_LENGTH - 1] + [EOS]
            row[:len(ids)] = torch.tensor(ids, dtype=torch.int16)
        return out

    def pieces(self) -> list[str]:
        return [self.model.id_to_piece(i) for i in range(len(self))]


def _corpus(count: int) -> list[str]:
    rng, lines = random.Random(7), []
    for i in range(count):
        scene = attributes.sample(rng, held_out=i % 4 == 0)
        lines.append(captions.describe(scene, rng, captions.TRAINED_OMISSION))
        if i % 4 == 1:
            lines.append(captions.instruct(scene, attributes.change(scene, rng), rng))
    return lines


def make(path: str, sentences: int = 40000) -> None:
    """Trains the tokenizer. The trainer splits so small a grammar into fragments, so its words are added whole."""
    lines, file = _corpus(sentences), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=file, vocab_size=512, model_type="unigram", pad_id=PAD, eos_id=EOS,
        unk_id=UNK, bos_id=-1, normalization_rule_name="nmt_nfkc_cf", hard_vocab_limit=False, minloglevel=2,
        character_coverage=1.0, num_threads=2)
    model = model_pb.ModelProto()
    model.ParseFromString(file.getvalue())
    count = collections.Counter(word.strip(",.") for line in lines for word in line.lower().split())
    count[","], count["."] = (sum(line.count(mark) for line in lines) for mark in ",.")
    total = sum(count.values())
    words = {(w if w in ",." else _SPACE + w): math.log(n / total) for w, n in count.items() if w and n}
    for piece in model.pieces:
        if piece.type == model_pb.ModelProto.SentencePiece.NORMAL:
            known = words.pop(piece.piece, None)
            piece.score = known if known is not None else piece.score - (6 if len(piece.piece) > 1 else 9)
    have = {piece.piece for piece in model.pieces}
    letters = {c: -16. for c in _SPACE + "abcdefghijklmnopqrstuvwxyz0123456789-'!?" if c not in have}
    for text, score in [*words.items(), *letters.items()]:
        piece = model.pieces.add()
        piece.piece, piece.score, piece.type = text, score, model_pb.ModelProto.SentencePiece.NORMAL
    model.trainer_spec.vocab_size = len(model.pieces)
    with open(path, "wb") as out:
        out.write(model.SerializeToString())


def map_embeddings(old: Tensor, old_tokenizer: Tokenizer, new_tokenizer: Tokenizer, seed: int = 0) -> Tensor:
    """Rows for the new pieces: the old row of the same piece, else that of a word of the same meaning, else a random
    one, always with a little noise on what is not the same piece."""
    rows = {piece: old[i] for i, piece in enumerate(old_tokenizer.pieces())}
    same, generator = captions.canonical_words(), torch.Generator().manual_seed(seed)
    out = []
    for piece in new_tokenizer.pieces():
        if piece in rows:
            out.append(rows[piece])
            continue
        like = rows.get(_SPACE + same.get(piece.lstrip(_SPACE), ""))
        noise = torch.randn(old.shape[1], generator=generator) * old.std()
        out.append(noise if like is None else like + .2 * noise)
    return torch.stack(out)


if __name__ == "__main__":
    make(sys.argv[1])
