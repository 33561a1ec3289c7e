"""A tiny encoder and code base for tests: no training, no download."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

SOURCE = '''
def read_lines(path):
    """Return what a text file holds, one entry per row."""
    with open(path) as file:
        return file.read().splitlines()


class Mailer:
    def send_mail(self, address, body):
        server = self.connect()
        server.deliver(address, body)
        return server.close()

    async def resize_image(self, image, width):
        height = image.height * width // image.width
        return image.scaled(width, height)
'''


def save_tiny_encoder(folder: Path, text: str = SOURCE, **settings: float) -> None:
    """Save a bag-of-words encoder whose words are those of `text`, each a random direction."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    from softnce_ext.encoders.text import split_identifiers

    words = ["[UNK]", *sorted(set(split_identifiers(text)))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[^a-z0-9]+"), "removed")
    vectors = np.random.default_rng(0).standard_normal((len(words), 64)).astype(np.float32)
    vectors[0] = 0.0
    model = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=vectors)],
        device="cpu",
        similarity_fn_name="cosine",
    )
    model.save(str(folder))
    if settings:
        (folder / "softnce.json").write_text(json.dumps(settings))
