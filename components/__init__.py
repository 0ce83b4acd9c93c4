"""Kubeflow components, one a stage, all made from the stage table by `components.base.component`."""
