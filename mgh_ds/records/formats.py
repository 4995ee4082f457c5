"""The formats that `mgh-ds data convert` and `validate` read, and those that `export` writes, by name.

A new format is a module with a function `records(rows, settings, report)`, which yields the records and
settles each row in the report, and a row here. A function `reads(column)` in it says whether it uses a column
of that name; without one all columns of a table are read. A function `listing(folder, split)` gives the files
of a folder whose layout is part of the format (`records.sources`). The module is imported when its format is
asked for; this one imports nothing, so that a command line can list the names at once.

A new format to write is a module that names what it is kept in, by `ENDINGS` of a file, and a row in
EXPORT_FORMATS. Files have a function `rows(records, store, ledger, options)`, which gives the rows and
settles each record in the ledger. For a folder, `ENDINGS` is empty; it has `write_folder(records, store,
ledger, folder)` and `MARK`, the file by which an earlier output is known.
"""

FORMATS: dict[str, str] = {
    "mgh": "mgh_ds.records.convert.mgh",  # the project's own JSONL: one record a line
    "flagembedding": "mgh_ds.records.convert.flagembedding",  # query, pos [], neg [], optional prompt
    "sentence-transformers": "mgh_ds.records.convert.sentence_transformers",  # anchor, positive, negative_1 …
    "tevatron": "mgh_ds.records.convert.tevatron",  # query, positive_passages [], negative_passages []
    "llm2vec": "mgh_ds.records.convert.llm2vec",  # query, positive, negative
    "beir": "mgh_ds.records.convert.beir",  # a folder of corpus, queries, qrels
    "nli": "mgh_ds.records.convert.nli",  # premise, hypothesis, label
    "sts": "mgh_ds.records.convert.sts",  # sentence1, sentence2, score of 0 to 5 or 0 to 1
    "sts-pairs": "mgh_ds.records.convert.sts_pairs",  # the same rows, every pair with its score
}

LISTING_NEGATIVES = ("flagembedding", "sentence-transformers", "tevatron")
"""Of these a row lists any number of negatives, of which `convert --negatives` keeps the first."""

EXPORT_FORMATS: dict[str, str] = {
    "mgh": "mgh_ds.records.export.mgh",  # records, whole, as JSONL or Parquet
    "datasets": "mgh_ds.records.export.datasets",  # the same, as a folder of `datasets`
    "sentence-transformers": "mgh_ds.records.export.sentence_transformers",  # anchor, positive, negative_1 …
    "sentence-transformers-triplets": "mgh_ds.records.export.sentence_transformers_triplets",
    "flagembedding": "mgh_ds.records.export.flagembedding",  # query, pos [], neg [], prompt, scores
    "tevatron": "mgh_ds.records.export.tevatron",  # query, positive_passages [], negative_passages []
    "beir": "mgh_ds.records.export.beir",  # corpus, queries, qrels
}
