import subprocess
import sys

CODE = """
import atexit, threading, time
from mgh_ds.distributed.exits import ExitCode, end_rank

class Aborts:
    def __del__(self):  # what a native thread that is still alive does to the interpreter's last steps
        import os
        os.abort()

last = Aborts()
threading.Thread(target=time.sleep, args=(60,)).start()
atexit.register(print, "said at the end")
print("said before", end=" ")
end_rank(ExitCode.STOPPED)
"""


def test_rank_ends_with_its_code_and_words_whatever_the_interpreter_would_have_met() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (75, "said before said at the end\n", "")
