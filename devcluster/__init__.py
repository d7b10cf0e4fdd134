"""An embedded cluster: the pods part of the Kubernetes API over HTTP, and a kubelet that runs containers as processes.

Nothing here isolates: see `devcluster.cluster.NOTICE`.
"""
