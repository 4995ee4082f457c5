"""What a synthesis is made of: every key of `configs/synth-*.yaml`."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from mgh_ds.common.config import Settings
from mgh_ds.records.schema import Subtype
from mgh_ds.records.subtypes import default_probabilities
from mgh_ds.synthesis.engines import ENGINES

if TYPE_CHECKING:
    EngineKind = str
else:  # mypy cannot read the names out of a table
    EngineKind = Literal[tuple(ENGINES)]

Share = Annotated[float, Field(ge=0, le=1)]
Subtypes = dict[Subtype, Share]


class Sampling(Settings):
    """How the engine draws tokens."""

    max_tokens: int = Field(default=2048, gt=0)
    """Longest answer in tokens."""
    temperature: float = Field(default=1.0, ge=0)
    """Divides the logits; 0 always takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the likeliest tokens that together have this probability."""
    top_k: int | None = Field(default=None, gt=0)
    """Draw from so many of the likeliest tokens; null: all."""
    repetition_stop: bool = True
    """vLLM ends an answer that goes in circles."""


class PromptConfig(Settings):
    """Where the words of the prompts come from; null takes those that ship with mgh-ds."""

    templates: str | None = None
    """A folder with the same file names as mgh_ds/synthesis/templates."""
    slots: str | None = None
    """A YAML file with the tables of mgh_ds/synthesis/slots.yaml."""


class TaskConfig(Settings):
    """Stage 1, the brainstorming of tasks."""

    calls: int = Field(default=200, ge=1, le=10**9)
    """Accepted answers over all shards."""
    per_call: int = Field(default=10, ge=1, le=100)
    """Tasks asked for in one call."""
    subtypes: Subtypes = Field(default=default_probabilities())
    """Probability of each shape of the texts."""
    near_duplicate: float = Field(default=0.7, gt=0, le=1)
    """Jaccard similarity of word 2-grams from which a task repeats another."""
    sampling: Sampling = Sampling(max_tokens=1024)
    """How the engine draws tokens."""

    @field_validator("subtypes")
    @classmethod
    def _check_sum(cls, subtypes: Subtypes) -> Subtypes:
        if abs(sum(subtypes.values()) - 1) > 1e-6:
            raise ValueError(f"are probabilities: they sum to {sum(subtypes.values()):.6g}, not to 1")
        return subtypes


class BudgetConfig(Settings):
    """When there is enough: exactly one of accepted samples or tokens of accepted samples."""

    samples: int | None = Field(default=None, ge=1, le=10**13)
    """Accepted samples over all shards; null: tokens decide."""
    tokens: int | None = Field(default=None, ge=1, le=10**13)
    """Tokens of accepted samples over all shards; null: samples decide."""
    count_prompt: bool = False
    """Whether prompt tokens count towards `tokens`."""

    @model_validator(mode="after")
    def _check_one_is_set(self) -> Self:
        if (self.samples is None) == (self.tokens is None):
            raise ValueError("set exactly one of `samples` and `tokens`")
        return self


class SampleConfig(Settings):
    """Stage 2: a query, its positive and four graded negatives in one call."""

    budget: BudgetConfig
    """When there is enough."""
    max_rounds: int = Field(default=8, ge=1, le=1_000)
    """Rounds of top-up after which a shard ends short of its budget."""
    sampling: Sampling = Sampling()
    """How the engine draws tokens."""


class FilterConfig(Settings):
    """Bounds that an answer must keep, in characters: [least, most]."""

    short_chars: list[int] = Field(default=[4, 500])
    """Of the short texts of asymmetric tasks."""
    long_chars: list[int] = Field(default=[120, 12_000])
    """Of the long texts of asymmetric tasks."""
    sentence_chars: list[int] = Field(default=[8, 800])
    """Of both texts of symmetric tasks."""

    @field_validator("*")
    @classmethod
    def _check_range(cls, bounds: list[int]) -> list[int]:
        if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
            raise ValueError(f"is {bounds}: give [least, most] characters, 0 < least <= most")
        return bounds


class ScriptedConfig(Settings):
    """The scripted engine: pseudo-text, drawn from the unit's id, for tests and dry runs."""

    delay_s: float = Field(default=0.0, ge=0)
    """Seconds from submission to answer, on average."""
    invalid: Share = 0.0
    """Share of units whose answers are cut, not JSON, or break a rule."""
    crash: Share = 0.0
    """Share of units that kill the engine whenever they are submitted."""
    hang: Share = 0.0
    """Share of units that make the engine fall silent whenever they are submitted."""


class EndpointConfig(Settings):
    """An OpenAI-compatible HTTP endpoint."""

    base_url: str = "http://127.0.0.1:8000/v1"
    """The server's address."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Seconds for one answer."""
    max_retries: int = Field(default=6, ge=0)
    """How often 5xx, lost connections and what is no answer are tried again, with exponential back-off."""
    patience_s: float = Field(default=1200.0, gt=0)
    """Seconds of nothing but 429 (too many requests) after which the run ends; 429 counts as no try."""
    response_format: Literal["json_schema", "json_object", "prompt"] = "json_schema"
    """How the schema is sent: as such, or, for servers that refuse that, in the prompt, with or without
    asking for a JSON object."""


class VllmConfig(Settings):
    """vLLM in a child process on this machine."""

    dtype: str = "auto"
    """Precision of the weights, in vLLM's words."""
    max_model_len: int = Field(default=8192, gt=0)
    """Tokens of prompt and answer together."""
    max_num_seqs: int = Field(default=256, gt=0)
    """Sequences in a batch: vLLM's own default depends on how it is used."""
    max_num_batched_tokens: int = Field(default=8192, gt=0)
    """Tokens in a step."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of the GPU's memory that weights and KV cache may take."""
    tensor_parallel_size: int = Field(default=1, gt=0)
    """GPUs an engine."""
    enforce_eager: bool = False
    """Skips compilation and CUDA graphs."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """Size of the KV cache in GiB; null: what gpu_memory_utilization leaves."""
    trust_remote_code: bool = False
    """Runs Python code that comes with the model."""


class EngineConfig(Settings):
    """Who writes the text. Kind, model, revision and chat template arguments are part of the plan's identity;
    the rest may be changed at `mgh-ds synth run`."""

    kind: EngineKind
    """Which engine: pseudo-text by a script, a server that speaks OpenAI's protocol, or vLLM."""
    model: str
    """A Hugging Face name, a folder or a GGUF file; for an endpoint, the name under which the server offers
    it."""
    revision: str | None = None
    """A commit of the model; null: the newest."""
    chat_template_kwargs: dict[str, Any] = Field(default={})
    """What the model's chat template is told, such as enable_thinking: false."""
    max_in_flight: int = Field(default=512, ge=1, le=10**6)
    """Calls submitted and not yet answered."""
    watchdog_s: float = Field(default=600.0, gt=0)
    """An engine without a sign of life for so many seconds is ended and started again."""
    start_s: float = Field(default=1800.0, gt=0)
    """An engine that is not ready after so many seconds has failed."""
    scripted: ScriptedConfig = ScriptedConfig()
    """The scripted engine."""
    endpoint: EndpointConfig = EndpointConfig()
    """The OpenAI-compatible server."""
    vllm: VllmConfig = VllmConfig()
    """vLLM on this machine."""


class JudgeConfig(Settings):
    """A language model that judges negatives: `mgh-ds synth judge`."""

    engine: EngineConfig
    """Who judges. Another model than the one that wrote the texts has other blind spots."""
    sampling: Sampling = Sampling(max_tokens=512, temperature=0.0)
    """How the engine draws tokens."""


class SynthesisConfig(Settings):
    """A synthesis from prompts to records."""

    name: str
    """The data set's name: in every row's source and on its card."""
    seed: int = Field(ge=-(2**63), lt=2**63)
    """Of the slots that every prompt draws."""
    shards: int = Field(ge=1, le=100_000)
    """How many pieces the work is cut into; never derived from the number of workers."""
    engine: EngineConfig
    """Who writes the text."""
    samples: SampleConfig
    """Stage 2: queries, positives and graded negatives."""
    tasks: TaskConfig = TaskConfig()
    """Stage 1: the brainstorming of tasks."""
    prompts: PromptConfig = PromptConfig()
    """Where the words of the prompts come from."""
    filters: FilterConfig = FilterConfig()
    """Bounds that an answer must keep."""
    chunk: int = Field(default=256, ge=1, le=65_536)
    """Units in one Parquet part."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name.strip():
            raise ValueError("is empty: records name it as their data set")
        return name
