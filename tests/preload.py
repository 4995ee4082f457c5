"""What the server that forks ranks does once for all: imports, and what libraries find out of the machine."""

# ruff: noqa: F401

import deepspeed
import deepspeed.module_inject.auto_ep_layer
import peft.utils.transformers_weight_conversion
import pyarrow.pandas_compat
import setuptools
import transformers.models.bert.modeling_bert
import transformers.models.mistral.modeling_mistral

import mgh_ds.model.tiny
import mgh_ds.training.engine
import mgh_ds.training.trainer
import tests.synthesis.kill_worker

mgh_ds.training.engine.import_muon()
deepspeed.ops.__compatible_ops__  # noqa: B018  # probed when asked for, by compiling a program
