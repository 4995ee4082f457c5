"""The shapes of a Mistral with LoRA, and the parameters that follow from them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shapes:
    """LoRA sits on the seven linear layers of each block; the defaults are Mistral-7B with rank 16."""

    hidden: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    intermediate: int = 14336
    vocabulary: int = 32000
    rank: int = 16

    @property
    def lora_parameters(self) -> int:
        """Each adapter is rank × inputs and outputs × rank."""
        kv_width = self.hidden // self.heads * self.kv_heads
        linears = {
            "q": (self.hidden, self.hidden),
            "k": (self.hidden, kv_width),
            "v": (self.hidden, kv_width),
            "o": (self.hidden, self.hidden),
            "gate": (self.hidden, self.intermediate),
            "up": (self.hidden, self.intermediate),
            "down": (self.intermediate, self.hidden),
        }
        return self.layers * sum(self.rank * (inputs + outputs) for inputs, outputs in linears.values())
