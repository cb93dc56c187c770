"""Environment of all tests, set before any of them imports Keras or PyTorch."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# On cells of few atoms more threads only wait for each other, ten times as long on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Geometries that DFT codes go on from: never those of an earlier run of the tests.
os.environ["CCDCGAN_CALCULATIONS"] = tempfile.mkdtemp(prefix="ccdcgan-tests-")
atexit.register(shutil.rmtree, os.environ["CCDCGAN_CALCULATIONS"], ignore_errors=True)
