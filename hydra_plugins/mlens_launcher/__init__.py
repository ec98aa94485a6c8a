"""The Hydra launcher hydra/launcher=mlens, which runs every job of a sweep under a separate torchrun.

Hydra discovers this namespace plugin by its location. At each start it executes every module here, outside sys.modules,
except those whose names begin with an underscore: so only the launcher's class is in a module without one.
"""
