"""ROPD's additions to verl: everything that plugs the method into an unmodified trainer.

`plugin` is loaded by verl in every process through the ``verl.plugins`` entry point; the
other modules are reached from the configuration by name. The method itself lives in
`algo.ropd` and does not know this package. `verl/UPSTREAM.md` lists the doors used.
"""
