"""Train on two ranks, each of which has the codes of both as negatives.

torchrun --nproc-per-node 2 examples/two_ranks.py
"""

import email
import os
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from softnce_ext.data.mining import mine_folder
from softnce_ext.encoders.static import build_tokenizer
from softnce_ext.sentence_transformers import SoftInfoNCELoss

torch.manual_seed(0)  # every rank builds the same model
pairs = mine_folder(Path(email.__file__).parent, workers=1, progress=False)
data = Dataset.from_dict({"query": [p.query for p in pairs], "code": [p.code for p in pairs]})
tokenizer = build_tokenizer([*data["query"], *data["code"]], vocab_size=2000)
model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=64)], device="cpu")

# On GPUs leave use_cpu and ddp_backend out: NCCL is what the trainer takes there.
arguments = Arguments(
    "out",
    per_device_train_batch_size=32,
    num_train_epochs=2,
    learning_rate=0.05,
    use_cpu=True,
    ddp_backend="gloo",
    report_to="none",
)
loss = SoftInfoNCELoss(model, gather_across_devices=True)
trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
trainer.train()
checksum = float(sum(weight.double().sum() for weight in model.parameters()))
mean = trainer.state.log_history[-1]["train_loss"]
print(f"rank {os.environ['RANK']}: loss {mean:.3f}, weights sum to {checksum:.6f}")
torch.distributed.destroy_process_group()  # left alive, it may abort the process at its end
