"""Who writes the text: a scripted engine, any OpenAI-compatible endpoint, or vLLM in a child process.

A new engine is a module with two functions, and a row in `ENGINES`:

    check(config)              what can be said without starting it; raises MghError for what cannot work
    open_engine(config, log)   starts it, an `Engine` (see `port.py`); what it prints goes to the file `log`

A module is imported when its engine is asked for, and only there may it import what it needs.
"""

ENGINES: dict[str, str] = {
    "scripted": "mgh_ds.synthesis.engines.scripted",
    "endpoint": "mgh_ds.synthesis.engines.endpoint",
    "vllm": "mgh_ds.synthesis.engines.vllm_process",
}
