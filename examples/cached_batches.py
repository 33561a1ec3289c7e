"""Train with a batch far larger than what is embedded at once.

python examples/cached_batches.py
"""

import email
from pathlib import Path

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from softnce_ext.data.mining import mine_folder
from softnce_ext.encoders.static import build_tokenizer
from softnce_ext.sentence_transformers import CachedSoftInfoNCELoss

pairs = mine_folder(Path(email.__file__).parent, workers=1, progress=False)
data = Dataset.from_dict({"query": [p.query for p in pairs], "code": [p.code for p in pairs]})
tokenizer = build_tokenizer([*data["query"], *data["code"]], vocab_size=2000)
model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=64)], device="cpu")

# The batch decides how many negatives a query has, mini_batch_size only how much memory it takes.
loss = CachedSoftInfoNCELoss(model, mini_batch_size=16)
arguments = Arguments(
    "out",
    per_device_train_batch_size=128,
    num_train_epochs=5,
    learning_rate=0.05,
    logging_steps=1,
    use_cpu=True,
    report_to="none",
)
trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(
    f"{len(data)} pairs, batches of 128 in mini-batches of 16: {losses[0]:.2f} to {losses[-1]:.2f}"
)
