"""The stages: functions from inputs, parameters and outputs to an outcome. `specs` describes them all."""
