"""The command line `tf-opt`: one file a command, and one for each idea that several commands share.

Nothing here imports TensorFlow before a command needs it, so that `--help`, `--version` and completion are quick, and
so that what TensorFlow reads from the environment can be set according to the models that the user names.
"""
