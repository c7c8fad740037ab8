"""Programs that run on the TPU VMs."""
