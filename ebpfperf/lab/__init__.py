"""The embedded cluster: a Calico-shaped cluster on one Linux machine, reached by API and SSH."""
