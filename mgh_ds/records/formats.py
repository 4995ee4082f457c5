"""The formats that `mgh-ds data convert` and `validate` read, by name.

A new format is a module with a function `records(rows, settings, report)`, which yields the records and
settles each row in the report, and a row here. A function `reads(column)` in it says whether it uses a column
of that name; without one all columns of a table are read. The module is imported when its format is asked
for; this one imports nothing, so that a command line can list the names at once.
"""

FORMATS: dict[str, str] = {
    "mgh": "mgh_ds.records.convert.mgh",  # the project's own JSONL: one record a line
    "flagembedding": "mgh_ds.records.convert.flagembedding",  # query, pos [], neg [], optional prompt
    "sentence-transformers": "mgh_ds.records.convert.sentence_transformers",  # anchor, positive, negative_1 …
    "llm2vec": "mgh_ds.records.convert.llm2vec",  # query, positive, negative
    "nli": "mgh_ds.records.convert.nli",  # premise, hypothesis, label
    "sts": "mgh_ds.records.convert.sts",  # sentence1, sentence2, score of 0 to 5 or 0 to 1
    "sts-pairs": "mgh_ds.records.convert.sts_pairs",  # the same rows, every pair with its score
}
