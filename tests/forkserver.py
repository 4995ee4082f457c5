"""The server that forks the tests' processes, of which Python has one: it imports the heavy libraries once."""

import multiprocessing

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preload"])
