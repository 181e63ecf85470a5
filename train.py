"""Train one config: python train.py configs/hat.py:tiny --workdir runs/hat [name=value ...]

This is `python -m hlm.train`; what it does is in hlm/train/__main__.py.
"""

from hlm.train.__main__ import main, script

__all__ = ["main"]

if __name__ == "__main__":
    script()
