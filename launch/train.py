"""Trains one run from a checkout: `deepspeed --num_accelerators 2 launch/train.py --config demo`.

The same as `deepspeed --num_accelerators 2 --module mgh_ds.train --config demo`, which needs no checkout;
mgh_ds/train.py says what the exit codes mean.
"""

import sys

from mgh_ds.train import main

if __name__ == "__main__":
    main(sys.argv[1:])
