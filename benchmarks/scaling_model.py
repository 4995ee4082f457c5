"""What a step of gradient caching computes and holds: parameters, FLOP and bytes from the layers' shapes."""

from dataclasses import dataclass

BF16, FP32, MASK = 2, 4, 1  # bytes

# What a score of the block at work takes at once: its logit and the exponential in fp32, and four masks.
SCORE_BYTES = 2 * FP32 + 4 * MASK


@dataclass(frozen=True)
class Shapes:
    """A Mistral with LoRA on its seven linear layers; the defaults are Mistral-7B with rank 16."""

    hidden: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    intermediate: int = 14336
    vocabulary: int = 32000
    rank: int = 16

    @property
    def kv_width(self) -> int:
        return self.hidden // self.heads * self.kv_heads

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of one block."""
        return {
            "q": (self.hidden, self.hidden),
            "k": (self.hidden, self.kv_width),
            "v": (self.hidden, self.kv_width),
            "o": (self.hidden, self.hidden),
            "gate": (self.hidden, self.intermediate),
            "up": (self.hidden, self.intermediate),
            "down": (self.intermediate, self.hidden),
        }

    @property
    def linear_parameters(self) -> int:
        """Of all blocks."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears.values())

    @property
    def frozen_parameters(self) -> int:
        """Of the encoder: embeddings, blocks and norms, without the head that would predict tokens."""
        norms = (2 * self.layers + 1) * self.hidden
        return self.vocabulary * self.hidden + self.linear_parameters + norms

    @property
    def lora_parameters(self) -> int:
        """Each adapter is rank × inputs and outputs × rank."""
        return self.layers * sum(self.rank * (inputs + outputs) for inputs, outputs in self.linears.values())

    @property
    def lora_tensors(self) -> int:
        return 2 * len(self.linears) * self.layers

    def forward_flop(self, length: int) -> int:
        """FLOP a token in a text of `length` tokens: 2 a parameter, and 4 a pair of tokens, channel and
        block for attention that sees the whole text."""
        attention = 4 * length * self.hidden * self.layers
        return 2 * (self.linear_parameters + self.lora_parameters) + attention

    def backward_flop(self, length: int) -> int:
        """FLOP a token behind one forward pass: frozen layers pass a gradient to their inputs but take none
        themselves; adapters do both; attention takes 10 a pair, its scores being computed again."""
        attention = 10 * length * self.hidden * self.layers
        return 2 * self.linear_parameters + 4 * self.lora_parameters + attention

    def step_flop(self, length: int, *, cached: bool) -> int:
        """FLOP a token and step: a pass without a graph if embeddings are `cached`, one with, its
        recomputation under activation checkpointing, and the backward pass."""
        return (3 if cached else 2) * self.forward_flop(length) + self.backward_flop(length)

    def activation_bytes(self, tokens: int) -> int:
        """Bytes of a micro-batch of `tokens` in bf16: every block's input, and what one block keeps for its
        backward pass while it is recomputed: two norms' inputs and outputs, q and attention's output, k, v,
        four tensors of the MLP, and each adapter's input behind dropout, with its mask."""
        inputs = sum(inputs for inputs, _ in self.linears.values())
        block = BF16 * (6 * self.hidden + 2 * self.kv_width + 4 * self.intermediate) + (BF16 + MASK) * inputs
        return tokens * (self.layers * self.hidden * BF16 + block)


def state_bytes(trainable: int, ranks: int) -> dict[str, int]:
    """Bytes a rank of ZeRO-2 over `trainable` parameters: bf16 weights and gradients and the fp32 bucket in
    which gradients are reduced on every rank; master weights, two moments and gradients in fp32, shared."""
    return {
        "adapter weights": BF16 * trainable,
        "adapter gradients": (BF16 + FP32) * trainable,
        "optimiser partition": -(-4 * FP32 * trainable // ranks),
    }


def checkpoint_bytes(trainable: int) -> int:
    """One file for any number of ranks: master weights and two moments in fp32."""
    return 3 * FP32 * trainable
