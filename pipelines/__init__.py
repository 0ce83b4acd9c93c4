"""What is made from the stage table for other runners: the Kubeflow pipeline and `dvc.yaml`."""
