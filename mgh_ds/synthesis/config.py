"""What a synthesis is made of: every key of `configs/synth-*.yaml`."""

from dataclasses import dataclass, field
from typing import Any, Literal

from mgh_ds.records.subtypes import default_probabilities


@dataclass(frozen=True)
class Sampling:
    """How the engine draws tokens. `max_tokens` bounds the answer."""

    max_tokens: int = 2048
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None  # of the likeliest tokens; null: all
    repetition_stop: bool = True  # vLLM ends an answer that goes in circles


@dataclass(frozen=True)
class PromptConfig:
    """Where the words of the prompts come from; null takes those that ship with mgh-ds."""

    templates: str | None = None  # a folder with the same file names as mgh_ds/synthesis/templates
    slots: str | None = None  # a YAML file with the tables of mgh_ds/synthesis/slots.yaml


@dataclass(frozen=True)
class TaskConfig:
    """Stage 1, the brainstorming of tasks."""

    calls: int = 200  # accepted answers over all shards
    per_call: int = 10  # tasks asked for in one call
    subtypes: dict[str, float] = field(default_factory=default_probabilities)  # probabilities
    near_duplicate: float = 0.7  # Jaccard similarity of word 2-grams from which a task repeats another
    sampling: Sampling = field(default_factory=lambda: Sampling(max_tokens=1024))


@dataclass(frozen=True)
class BudgetConfig:
    """When there is enough: exactly one of accepted samples or tokens of accepted samples."""

    samples: int | None = None
    tokens: int | None = None
    count_prompt: bool = False  # whether prompt tokens count towards `tokens`


@dataclass(frozen=True)
class SampleConfig:
    """Stage 2: a query, its positive and four graded negatives in one call."""

    budget: BudgetConfig
    max_rounds: int = 8  # rounds of top-up after which a shard ends short of its budget
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class FilterConfig:
    """Bounds that an answer must keep, in characters: [least, most]."""

    short_chars: list[int] = field(default_factory=lambda: [4, 500])
    long_chars: list[int] = field(default_factory=lambda: [120, 12_000])
    sentence_chars: list[int] = field(default_factory=lambda: [8, 800])  # both texts of symmetric tasks


@dataclass(frozen=True)
class ScriptedConfig:
    """The scripted engine: pseudo-text, drawn from the unit's id, for tests and dry runs. Shares are of
    units."""

    delay_s: float = 0.0  # from submission to answer
    invalid: float = 0.0  # answers that are cut, not JSON, or break a rule
    crash: float = 0.0  # units that kill the engine whenever they are submitted
    hang: float = 0.0  # units that make the engine fall silent whenever they are submitted


@dataclass(frozen=True)
class EndpointConfig:
    """An OpenAI-compatible HTTP endpoint."""

    base_url: str = "http://127.0.0.1:8000/v1"
    api_key_env: str | None = None  # name of the environment variable that holds the key
    timeout_s: float = 600.0  # for one answer
    max_retries: int = 6  # of 429, 5xx and lost connections, with exponential back-off


@dataclass(frozen=True)
class VllmConfig:
    """vLLM in a child process on this machine."""

    dtype: str = "auto"
    max_model_len: int = 8192  # tokens, prompt and answer
    max_num_seqs: int = 256  # sequences in a batch: vLLM's own default depends on how it is used
    max_num_batched_tokens: int = 8192  # tokens in a step
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    enforce_eager: bool = False  # skips compilation and CUDA graphs
    kv_cache_gib: float | None = None  # size of the KV cache; null: what gpu_memory_utilization leaves
    trust_remote_code: bool = False


@dataclass(frozen=True)
class EngineConfig:
    """Who writes the text. Kind, model, revision and chat template arguments are part of the plan's identity;
    the rest may be changed at `mgh-ds synth run`."""

    kind: Literal["scripted", "endpoint", "vllm"]
    model: str
    revision: str | None = None
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)  # such as enable_thinking: false
    max_in_flight: int = 512  # calls submitted and not yet answered
    watchdog_s: float = 600.0  # an engine without a sign of life for this long is ended and started again
    start_s: float = 1800.0  # an engine that is not ready after this long has failed
    scripted: ScriptedConfig = field(default_factory=ScriptedConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    vllm: VllmConfig = field(default_factory=VllmConfig)


@dataclass(frozen=True)
class SynthesisConfig:
    """A synthesis from prompts to records."""

    name: str
    seed: int
    shards: int  # how many pieces the work is cut into; never derived from the number of workers
    engine: EngineConfig
    samples: SampleConfig
    tasks: TaskConfig = field(default_factory=TaskConfig)
    prompts: PromptConfig = field(default_factory=PromptConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    chunk: int = 256  # units in one Parquet part
