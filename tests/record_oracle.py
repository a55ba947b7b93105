"""Write tests/data/oracle.npz: run the tests that ask the oracle, and keep its answers.

Needs the extra ``oracle``. Run after a change of such a test::

    python tests/record_oracle.py                    # everything, models of full size too
    python tests/record_oracle.py -k cnn14           # only these; other answers stay
"""

import os
import sys
from pathlib import Path

os.environ["RECLAP_RECORD_ORACLE"] = "some" if sys.argv[1:] else "all"

import pytest

if __name__ == "__main__":
    here = Path(__file__).parent
    sys.exit(pytest.main(["-q", "-m", "oracle", "-p", "no:xdist", str(here), *sys.argv[1:]]))
