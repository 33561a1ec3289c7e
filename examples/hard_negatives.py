"""Train with mined hard negatives, which Soft-InfoNCE must not weaken for their own query.

python examples/hard_negatives.py
"""

import asyncio
from pathlib import Path

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from softnce_ext import BM25
from softnce_ext.data.mining import mine_folder
from softnce_ext.encoders.static import build_tokenizer, tokenize
from softnce_ext.sentence_transformers import SoftInfoNCELoss

# (documentation, function) pairs of a package of the standard library.
pairs = mine_folder(Path(asyncio.__file__).parent, workers=1, progress=False)
queries, codes = [pair.query for pair in pairs], [pair.code for pair in pairs]
tokenizer = build_tokenizer(queries + codes, vocab_size=2000)

# Of each query the code that shares most with it by BM25 and is not its own.
scores = BM25().scores(tokenize(tokenizer, queries), tokenize(tokenizer, codes))
scores[range(len(pairs)), range(len(pairs))] = -1
negatives = [codes[column] for column in scores.argmax(axis=1)]

model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=64)], device="cpu")
data = Dataset.from_dict({"query": queries, "code": codes, "negative": negatives})
loss = SoftInfoNCELoss(model, exclude_hard_negatives=True)
loss.pop_statistics()  # low_weights are counted from the first call on
arguments = Arguments(
    "out",
    per_device_train_batch_size=64,
    num_train_epochs=3,
    learning_rate=0.05,
    use_cpu=True,
    report_to="none",
)
trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
trainer.train()
print(f"{len(pairs)} triples; per step: {loss.pop_statistics()}")
