"""The peers of `benchmark/peers.py`: each module but those named in it is one worker process."""
