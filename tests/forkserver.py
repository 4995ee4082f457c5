"""The server that forks the tests' processes; Python has one. It imports the heavy libraries once."""

import multiprocessing

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preload"])
