"""What runs inside the pod's runner image: checkout, cache and upload, and the shim that runs the steps.

Standard library only, and of `runner_spec` only the modules that are so too. Everything streams: memory stays under
64 MiB whatever the size of a repository, a cache or an artifact.
"""
