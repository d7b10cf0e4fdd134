"""Effects: the queue, the cluster, the reflector, the supervisor, logs, metrics and the command line."""
