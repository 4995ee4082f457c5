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
