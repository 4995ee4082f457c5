"""What vLLM loads for an export: one model for all families, which is the one that `Encoder` runs.

The engine's flat batch of whole texts is our packed batch, so that mask, column sums, pooling and
normalisation are the very code that training runs. vLLM's own attention layers leave no column sums, and do
not know every family's mask.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mgh_ds.model.config import DType
from mgh_ds.model.embedder import load_model
from mgh_ds.model.sentence_transformers_folder import named_prompts
from mgh_ds.serving.folder import model_folder, read_folder
from mgh_ds.serving.hooks import need_hooks
from mgh_ds.serving.texts import TextReader, split

DTYPES: dict[torch.dtype, DType] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


class MghEmbedder(nn.Module):
    """Flat token batches in, for each token the vector of its text out.

    vLLM keeps one row a token between model and pooler: `pooler` takes a text's last.
    """

    # vLLM asks the class. Without attention that it knows of there is no KV cache.
    is_pooling_model = True
    is_attention_free = True
    attn_type = "encoder_only"

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:  # noqa: ARG002
        """Raises MghError for what `read_folder` and `load_model` refuse."""
        super().__init__()
        need_hooks()
        model_config = vllm_config.model_config
        folder = model_folder(model_config.model, model_config.revision)
        settings, _ = read_folder(folder)
        # vLLM has its own precision and device as the defaults here, which loading must not go by.
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            with torch.device("cpu"):
                self.embedder, tokenizer = load_model(folder, settings, DTYPES[model_config.dtype])
        finally:
            torch.set_default_dtype(before)
        self.embedder.to(vllm_config.device_config.device)
        self.reader = TextReader(tokenizer, named_prompts(folder).values())
        self.pooler = VectorPooler()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Does nothing: `load_model` has read the weights, and checked that all are there and used."""

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """States `[T, D]` before the first layer."""
        return self.embedder.backbone.get_input_embeddings()(input_ids)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: object = None,  # noqa: ARG002
        inputs_embeds: object = None,  # noqa: ARG002
        **_: object,
    ) -> Tensor:
        """From `input_ids` and `positions`, int `[T]`, of whole texts one after another: `[T, dim]`, fp32."""
        texts = split(input_ids.tolist(), positions.tolist())
        vectors = self.embedder(self.reader.batch(texts).to(input_ids.device))
        return vectors.repeat_interleave(
            torch.tensor([len(ids) for ids in texts], device=vectors.device), dim=0
        )


class VectorPooler(nn.Module):
    """Takes each text's vector from the rows of its tokens."""

    def get_supported_tasks(self) -> set[str]:
        return {"embed"}

    def get_pooling_updates(self, task: str) -> Any:  # noqa: ARG002
        from vllm.model_executor.layers.pooler import PoolingParamsUpdate

        return PoolingParamsUpdate()

    def forward(self, hidden_states: Tensor, pooling_metadata: Any) -> list[Tensor]:
        """From rows `[T, dim]` to a unit vector for each request; shorter where `dimensions` asks for it, for
        models that are trained for that."""
        vectors = hidden_states[pooling_metadata.get_pooling_cursor().last_token_indices_gpu]
        wanted = [params.dimensions for params in pooling_metadata.pooling_params]
        return [
            vector if size is None else nn.functional.normalize(vector[:size], dim=-1)
            for vector, size in zip(vectors, wanted, strict=True)
        ]
