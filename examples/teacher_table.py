"""Weigh negatives by a trained model, whose vectors of all texts are made once, before training.

python examples/teacher_table.py
"""

import email
from pathlib import Path

from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers import SentenceTransformerTrainingArguments as Arguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from softnce_ext.data.mining import mine_folder
from softnce_ext.encoders.static import build_tokenizer
from softnce_ext.estimators.encoder import TeacherEstimator
from softnce_ext.sentence_transformers import SoftInfoNCELoss, add_row_numbers

pairs = mine_folder(Path(email.__file__).parent, workers=1, progress=False)
data = Dataset.from_dict({"query": [p.query for p in pairs], "code": [p.code for p in pairs]})
tokenizer = build_tokenizer([*data["query"], *data["code"]], vocab_size=2000)
arguments = Arguments(
    "out",
    per_device_train_batch_size=64,
    num_train_epochs=3,
    learning_rate=0.05,
    use_cpu=True,
    report_to="none",
)


def new_model(dimension: int) -> SentenceTransformer:
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=dimension)])


def train(loss: SoftInfoNCELoss, rows: Dataset) -> float:
    trainer = SentenceTransformerTrainer(loss.model, arguments, train_dataset=rows, loss=loss)
    return trainer.train().training_loss


# The teacher: here a wider model, trained with every negative equally wrong.
wide = new_model(256)
train(SoftInfoNCELoss(wide, estimator=None), data)
teacher = TeacherEstimator(wide)
tables = teacher.cache(data["query"], data["code"], folder="out/tables")

# The column label, the one that reaches a loss as numbers: which row of the tables a text has.
numbered = add_row_numbers(data)
loss = SoftInfoNCELoss(new_model(64), teacher, temperature=0.1)
loss.pop_statistics()  # low_weights are counted from the first call on
print(f"tables of {len(tables[0])} rows; training loss {train(loss, numbered):.3f}")
print(f"per step: {loss.pop_statistics()}")
