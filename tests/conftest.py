"""Settings that every test shares."""

import os

# Before any library reads them: no hub, no accelerator, and one thread a process, since ranks share the
# cores.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

import torch
from hypothesis import settings

# Properties are tried on 500 cases each; HYPOTHESIS_PROFILE=long, or --hypothesis-profile=long, tries 10,000.
settings.register_profile("ci", max_examples=500, deadline=None)
settings.register_profile("long", max_examples=10_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Without a GPU the Triton kernels run in Triton's interpreter, which must be known before Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
