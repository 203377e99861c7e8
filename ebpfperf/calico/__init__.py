"""Knowledge of Calico, without I/O. Each fact names its source in the docstring that uses it."""
