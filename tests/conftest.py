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

# Without a GPU the Triton kernels run in Triton's interpreter, which must be known before Triton is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
