"""hydra/launcher=mlens: every job of a sweep in a torchrun of its own.

A namespace plugin that Hydra finds by its place. Hydra runs every module here at each start, outside of
sys.modules, but for those whose names begin with an underscore: so all but the launcher's class is in such.
"""
